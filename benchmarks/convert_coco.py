"""Converting a COCO file of the size of COCO 2017 train under a name map, against a plain script.

The plain script is the floor: orjson load, a NumPy remap of the category ids, orjson dump; it
checks nothing. Ours is the command line, validation and atomic, synced output included. Each runs
as a process of its own, in turn, several times; peak memory is the process's maximum resident set.

    python benchmarks/convert_coco.py [--repeats 5] [--out benchmarks/convert_coco.md]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml


def run_floor(source: Path, map_file: Path, out: Path) -> None:
    """The plain script: no check of anything, and no care for what a kill leaves behind."""
    names = yaml.safe_load(map_file.read_bytes())
    data = orjson.loads(source.read_bytes())
    targets = list(dict.fromkeys(t for t in names.values() if t is not None))
    new_id = {t: i + 1 for i, t in enumerate(targets)}
    table = np.zeros(max(c["id"] for c in data["categories"]) + 1, dtype=np.int64)
    for category in data["categories"]:
        if names[category["name"]] is not None:
            table[category["id"]] = new_id[names[category["name"]]]
    ids = table[np.array([a["category_id"] for a in data["annotations"]])].tolist()
    kept = []
    for annotation, new in zip(data["annotations"], ids, strict=True):
        if new:
            annotation["category_id"] = new
            kept.append(annotation)
    data["annotations"] = kept
    data["categories"] = [{"id": i, "name": t} for t, i in new_id.items()]
    out.write_bytes(orjson.dumps(data))


def name_map() -> dict[str, str | None]:
    """Pairs of classes merge and every tenth is left out, as label spaces do to each other."""
    return {f"class {i}": None if i % 10 == 0 else f"group {i // 2}" for i in range(1, 81)}


def generate(path: Path, *, images: int, boxes: int, polygons: bool, seed: int = 0) -> None:
    """A COCO file with random boxes inside their images; annotations in no order of images."""
    rng = np.random.default_rng(seed)
    width, height = 640, 480
    size = rng.uniform(4, 200, (boxes, 2)).round(2)
    corner = (rng.uniform(0, 1, (boxes, 2)) * ([width, height] - size)).round(2)
    image = rng.integers(1, images + 1, boxes).tolist()
    category = rng.integers(1, 81, boxes).tolist()
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = 1 + np.stack([np.cos(angle), np.sin(angle)], axis=1)
    annotations = []
    for i, (x, y, w, h) in enumerate(np.concatenate([corner, size], axis=1).tolist()):
        row = {
            "id": i + 1,
            "image_id": image[i],
            "category_id": category[i],
            "bbox": [x, y, w, h],
            "area": round(w * h, 4),
            "iscrowd": 0,
        }
        if polygons:
            ring = corner[i] + size[i] / 2 * circle
            row["segmentation"] = [ring.round(2).ravel().tolist()]
        annotations.append(row)
    data = {
        "info": {"description": "synthetic", "version": "1.0"},
        "licenses": [{"id": 1, "name": "none", "url": ""}],
        "images": [
            {
                "id": i,
                "file_name": f"{i:012d}.jpg",
                "width": width,
                "height": height,
                "license": 1,
            }
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)],
    }
    path.write_bytes(orjson.dumps(data))


def measure(command: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of processor time and peak resident MB of one process.

    The caller must be small: a process starts out with the peak of the one it was forked from.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def elsewhere(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function in a process of its own, and leave its memory there."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **options).result()


def same(ours: Path, floor: Path) -> bool:
    """Whether both outputs have the same boxes, categories and images."""

    def table(path: Path) -> tuple[dict[int, tuple], list[str]]:
        data = orjson.loads(path.read_bytes())
        names = {c["id"]: c["name"] for c in data["categories"]}
        rows = {
            a["id"]: (a["image_id"], names[a["category_id"]], a["bbox"], a.get("segmentation"))
            for a in data["annotations"]
        }
        return rows, [i["file_name"] for i in data["images"]]

    return table(ours) == table(floor)


def run(folder: Path, *, images: int, boxes: int, polygons: bool, repeats: int) -> str:
    source, names = folder / "source.json", folder / "map.yaml"
    elsewhere(generate, source, images=images, boxes=boxes, polygons=polygons)
    names.write_text(yaml.safe_dump(name_map()))
    relabel = str(Path(sys.executable).parent / "relabel")
    ours_out, floor_out = folder / "ours.json", folder / "floor.json"
    commands = {
        "relabel": [
            relabel, "datasets", "convert", str(source), "--format", "coco", "--to", "coco",
            "--out", str(ours_out), "--map", str(names),
        ],
        "floor": [
            sys.executable, __file__, "--floor", str(source), str(names), str(floor_out),
        ],
    }  # fmt: skip
    results: dict[str, list[tuple[float, float, float]]] = {key: [] for key in commands}
    for i in range(repeats):
        for key, command in list(commands.items())[:: 1 if i % 2 else -1]:
            results[key].append(measure(command))
            print(f"{key}: {results[key][-1][0]:.2f} s", file=sys.stderr)
    agree = elsewhere(same, ours_out, floor_out)
    middle = {k: statistics.median(v[0] for v in vs) for k, vs in results.items()}
    work = {k: statistics.median(v[1] for v in vs) for k, vs in results.items()}
    peak = {k: max(v[2] for v in vs) for k, vs in results.items()}
    kind = "boxes and polygons" if polygons else "boxes"
    lines = []
    for key, title in (
        ("relabel", "`relabel datasets convert`"),
        ("floor", "orjson + NumPy + orjson"),
    ):
        lines.append(
            f"| {kind}, {source.stat().st_size / 1e6:.0f} MB | {title} | {middle[key]:.2f} "
            f"| {middle[key] / middle['floor']:.2f} | {work[key]:.2f} "
            f"| {work[key] / work['floor']:.2f} | {peak[key]:.0f} | "
            f"{'yes' if agree else 'NO'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    parser.add_argument("--floor", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.floor:
        run_floor(*options.floor)
        return
    rows = []
    for polygons in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(
                run(
                    Path(folder),
                    images=options.images,
                    boxes=options.boxes,
                    polygons=polygons,
                    repeats=options.repeats,
                )
            )
    text = "\n".join(
        [
            "# Converting COCO under a name map",
            "",
            f"{options.images:,} images and {options.boxes:,} boxes; each run is a process of its",
            f"own, the two in turn, medians of {options.repeats}. The floor checks nothing. CPU",
            "seconds are user and system time, which other work on the machine disturbs less.",
            "",
            f"    python benchmarks/convert_coco.py --repeats {options.repeats}"
            + (f" --out {options.out}" if options.out else ""),
            "",
            "| file | process | seconds | of the floor | CPU seconds | of the floor | peak MB "
            "| same boxes |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}.",
            "",
        ]
    )
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
