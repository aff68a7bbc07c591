"""Are datasets of a million images and ten million boxes described, validated and converted in time
and memory that grow no faster than they do?

    python benchmarks/scale.py --json scale.json --out benchmarks/scale.md
    python benchmarks/scale.py --sizes 1000,10000 --kinds coco,yolo,waymo_v2 --shapes 0

Made-up datasets: one folder of images with a COCO file and YOLO's text files, Waymo v2's Parquet
files of a thousand images each; and COCO files of an odd shape: many categories under a map of
names, many fields that relabel does not know, annotations with masks, regions to leave out, boxes
that pass the edge. Images are headers without pixels, a hundred names for each file (hard links),
so that a million of them take little room; those of Waymo are filled up to the size from which only
one a camera is looked at. Every command runs in a process of its own, its peak memory is what the
operating system says. With ``--before COMMIT`` the shapes that once took time in the square of
their size are also read by the code of that commit, on the same files in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from convert_coco import elsewhere, measure

from relabel.evaluation.tables import markdown

WIDTH, HEIGHT, CATEGORIES, LINKS, BLOCK = 640, 480, 80, 100, 10_000
# Images of a Waymo file, and bytes of each: together more than are read for their sizes.
SEGMENT, JPEG_BYTES = 1000, 68 << 10
FIELDS = 200
KINDS = ("coco", "yolo", "waymo_v2")
SHAPES: dict[str, str] = {
    "categories": "ten boxes of each category, all of them under a map of names",
    "fields": f"annotations and images with ten of {FIELDS} unknown fields, new ones all along",
    "masks": "annotations with a polygon of 24 corners",
    "ignored": "all boxes regions to leave out",
    "clipped": "all boxes over an edge, ids in no order, every second one there twice",
}
# Images, and boxes of each, of the shapes that an earlier commit is compared on.
COMPARED = {"categories": (20_000, 10), "fields": (40_000, 1)}
NOTES = """\
# Readers, checks and writers from ten thousand to a million images

    {command}

Made-up datasets with {per_image} boxes an image, {cores} cores ({machine}) shared with other work: seconds of processor time (user and system, of the process) tell more than those on the clock. Each line is one process and one run, of `relabel datasets describe`, `validate --no-decode` or `convert`; its peak memory is its maximum resident set. A process takes about 0.3 s and 50 MB before it does anything (about 110 MB more with Arrow), which is why CPU seconds per 100,000 images fall from the first size to the second.

What it does not show: files were just written, so they come from the page cache; images are headers without pixels, a hundred names for each (hard links), and no image is decoded; Waymo's JPEGs are filled with zeros and compress well. Converting to COCO writes no images, to YOLO links them.
"""  # noqa: E501


def jpeg(width: int, height: int, number: int, length: int = 0) -> bytes:
    """The header of a JPEG, which a comment with a number tells from others, without pixels."""
    side = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    frame = b"\xff\xc0\x00\x0b\x08" + side + b"\x01\x01\x11\x00"
    comment = b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big")
    head = b"\xff\xd8" + comment + frame + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    return head + bytes(max(0, length - len(head) - 2)) + b"\xff\xd9"


def drawn(rng: np.random.Generator, count: int, scale: tuple[int, int]) -> np.ndarray:
    """xywh [count, 4] of boxes inside an image, with two decimals."""
    size = rng.uniform(4, 200, (count, 2)).round(2)
    return np.concatenate([(rng.uniform(0, 1, (count, 2)) * (scale - size)).round(2), size], axis=1)


def blocks(count: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def write_coco(
    file: Path,
    images: int,
    per_image: int,
    change: Callable[[dict[str, Any], np.random.Generator, str], None] | None = None,
    categories: int = CATEGORIES,
    root: str = "",
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Write a COCO file in blocks of images, and give names, boxes and classes of each.

    Args:
        change: changes a record of an ``image`` or an ``annotation``.
    """
    rng = np.random.default_rng(0)
    records = file.with_suffix(".records")
    with file.open("wb") as out, records.open("wb") as annotations:
        info = {"description": "made up"} | ({"relabel": {"root": root}} if root else {})
        named = [{"id": i + 1, "name": f"class {i}"} for i in range(categories)]
        out.write(
            b'{"info":%b,"categories":%b,"images":[' % tuple(map(orjson.dumps, (info, named)))
        )
        for start, stop in blocks(images):
            n = (stop - start) * per_image
            names = [f"{i:012d}.jpg" for i in range(start, stop)]
            xywh = drawn(rng, n, (WIDTH, HEIGHT))
            # Every category has boxes.
            category = (np.arange(start * per_image, start * per_image + n) * 7919) % categories
            rows: dict[str, list[dict[str, Any]]] = {
                "image": [
                    {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 1}
                    for i, name in enumerate(names, start + 1)
                ],
                "annotation": [
                    {
                        "id": i,
                        "image_id": start + 1 + k // per_image,
                        "category_id": c,
                        "bbox": box,
                        "area": round(box[2] * box[3], 4),
                        "iscrowd": 0,
                    }
                    for k, (i, box, c) in enumerate(
                        zip(
                            range(start * per_image + 1, start * per_image + n + 1),
                            xywh.tolist(),
                            (category + 1).tolist(),
                            strict=True,
                        )
                    )
                ],
            }
            for kind, stream in (("image", out), ("annotation", annotations)):
                if change is not None:
                    for row in rows[kind]:
                        change(row, rng, kind)
                stream.write((b"," if start else b"") + orjson.dumps(rows[kind])[1:-1])
            yield names, xywh, category
        out.write(b'],"annotations":[')
        annotations.flush()
        with records.open("rb") as written:
            shutil.copyfileobj(written, out, 1 << 20)
        out.write(b"]}")
    records.unlink()


def make_folder(folder: Path, images: int, per_image: int) -> None:
    """A folder of images with labels as a COCO file and as YOLO's text files."""
    photos, labels = folder / "images/train", folder / "labels/train"
    for made in (photos, labels, folder / "annotations"):
        made.mkdir(parents=True)
    names = "".join(f"  {i}: class {i}\n" for i in range(CATEGORIES))
    (folder / "data.yaml").write_text(f"train: images/train\nnames:\n{names}")
    file = folder / "annotations/instances_train.json"
    scale, first, made = np.array([WIDTH, HEIGHT] * 2), "", 0
    for named, xywh, category in write_coco(file, images, per_image, root="../images/train"):
        part = np.concatenate([xywh[:, :2] + xywh[:, 2:] / 2, xywh[:, 2:]], axis=1) / scale
        lines = [
            f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n"
            for c, (x, y, w, h) in zip(category.tolist(), part.tolist(), strict=True)
        ]
        for k, name in enumerate(named):
            text = "".join(lines[k * per_image : (k + 1) * per_image])
            with open(f"{labels}/{name[:-4]}.txt", "w") as stream:  # noqa: PTH123
                stream.write(text)
            if made % LINKS:
                os.link(first, f"{photos}/{name}")
            else:
                first = f"{photos}/{name}"
                Path(first).write_bytes(jpeg(WIDTH, HEIGHT, made))
            made += 1


def make_waymo(folder: Path, images: int, per_image: int) -> None:
    """Waymo v2: files of a thousand images, two hundred frames of five cameras."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    for kind in ("camera_image", "camera_box"):
        (folder / "training" / kind).mkdir(parents=True)
    sizes = [(1920, 1280)] * 3 + [(1920, 886)] * 2
    photos = pa.array([jpeg(*sizes[i % 5], i, JPEG_BYTES) for i in range(SEGMENT)])
    for segment in range(images // SEGMENT):
        context = f"{segment:019d}_1000_000_1020_000"
        frame = np.arange(SEGMENT)
        keys = {
            "key.segment_context_name": [context] * SEGMENT,
            "key.frame_timestamp_micros": 1_500_000_000_000_000 + frame // 5 * 100_000,
            "key.camera_name": (frame % 5 + 1).astype(np.int8),
        }
        table = pa.table({**keys, "[CameraImageComponent].image": photos})
        name = f"{context}.parquet"
        named: Any = ["key.segment_context_name"]
        pq.write_table(
            table,
            folder / "training/camera_image" / name,
            row_group_size=100,
            compression="zstd",
            use_dictionary=named,
        )
        box = np.repeat(frame, per_image)
        xywh = drawn(rng, len(box), (1920, 886))
        component = "[CameraBoxComponent]"
        pq.write_table(
            pa.table(
                {
                    "key.segment_context_name": [context] * len(box),
                    "key.frame_timestamp_micros": np.asarray(keys["key.frame_timestamp_micros"])[
                        box
                    ],
                    "key.camera_name": np.asarray(keys["key.camera_name"])[box],
                    "key.camera_object_id": [f"{segment}-{i}" for i in range(len(box))],
                    f"{component}.box.center.x": xywh[:, 0] + xywh[:, 2] / 2,
                    f"{component}.box.center.y": xywh[:, 1] + xywh[:, 3] / 2,
                    f"{component}.box.size.x": xywh[:, 2],
                    f"{component}.box.size.y": xywh[:, 3],
                    f"{component}.type": rng.choice([1, 2, 4], len(box)).astype(np.int8),
                    f"{component}.difficulty_level.detection": rng.integers(0, 3, len(box)),
                }
            ),
            folder / "training/camera_box" / name,
            compression="zstd",
        )


def make_shape(folder: Path, shape: str, images: int, per_image: int) -> None:
    """A COCO file of an odd shape, without images; ``map.yaml`` beside it."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = 1 + np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def change(row: dict[str, Any], rng: np.random.Generator, kind: str) -> None:
        number = row["id"]
        if shape == "fields":
            first = number * FIELDS // (images if kind == "image" else images * per_image)
            row.update({f"field {(first + i) % FIELDS}": [number, None] for i in range(10)})
        elif kind == "image":
            return
        elif shape == "masks":
            x, y, w, h = row["bbox"]
            ring = [x, y] + np.array([w, h]) / 2 * circle
            row["segmentation"] = [ring.round(2).ravel().tolist()]
        elif shape == "ignored":
            row["iscrowd"] = 1
        elif shape == "clipped":
            row["bbox"] = [row["bbox"][0] + WIDTH - 4, *row["bbox"][1:]]
            row["id"] = 2 * (number * 7919 % 2_000_003) // 3

    categories = images if shape == "categories" else CATEGORIES
    for _ in write_coco(folder / "all.json", images, per_image, change, categories):
        pass
    names = "".join(f"class {i}: group {i // 2}\n" for i in range(categories))
    (folder / "map.yaml").write_text(names)


def commands(kind: str, folder: Path, out: Path) -> dict[str, list[str]]:
    """What is done with a dataset, as arguments of ``relabel datasets``."""
    source = {
        "coco": [str(folder / "annotations/instances_train.json"), "--format", "coco"],
        "yolo": [str(folder), "--format", "yolo"],
        "waymo_v2": [str(folder), "--format", "waymo_v2"],
    }.get(kind, [str(folder / "all.json"), "--format", "coco"])
    convert = ["convert", *source, "--out"]
    if kind in SHAPES:
        named = ["--map", str(folder / "map.yaml")]
        yolo = [*convert, str(out / "yolo"), "--to", "yolo", "--images", "none", *named]
        return {
            "describe": ["describe", *source],
            "validate": ["validate", *source, "--no-decode", "--quiet"],
            "to coco, map": [*convert, str(out / "all.json"), "--to", "coco", *named],
        } | ({} if kind == "categories" else {"to yolo, map": yolo})
    target = "yolo" if kind == "coco" else "coco"
    place = str(out / "yolo") if target == "yolo" else str(out / "all.json")
    return {
        "describe": ["describe", *source],
        "validate": ["validate", *source, "--no-decode", "--quiet"],
        f"to {target}": [*convert, place, "--to", target],
    }


def run(
    kind: str, images: int, per_image: int, parent: Path, keep: Path | None
) -> list[dict[str, Any]]:
    """The measurements of one dataset of one size."""
    rows = []
    with tempfile.TemporaryDirectory(dir=parent) as place:
        folder, out = Path(place, "data"), Path(place, "out")
        folder.mkdir()
        if kind in SHAPES:
            elsewhere(make_shape, folder, kind, images, per_image)
        elif kind == "waymo_v2":
            elsewhere(make_waymo, folder, images, per_image)
        else:
            elsewhere(make_folder, folder, images, per_image)
        # Both formats of one folder are measured where it is made.
        for each in ("coco", "yolo") if kind == "coco+yolo" else (kind,):
            for title, arguments in commands(each, folder, out).items():
                out.mkdir()
                command = [sys.executable, "-m", "relabel", "datasets", *arguments]
                seconds, cpu, peak = measure(command)
                row = {
                    "kind": each,
                    "command": title,
                    "images": images,
                    "boxes": images * per_image,
                }
                rows.append({**row, "seconds": seconds, "cpu": cpu, "peak_mb": peak})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                if keep is not None:
                    kept = keep / f"{each}-{title.replace(', ', '-').replace(' ', '-')}-{images}"
                    shutil.move(out, kept)
                else:
                    shutil.rmtree(out)
    return rows


def compare(shape: str, parent: Path | None, commit: str) -> list[dict[str, Any]]:
    """The measurements of a shape with the code of a commit and with ours, on the same files."""
    rows: list[dict[str, Any]] = []
    images, per_image = COMPARED[shape]
    with tempfile.TemporaryDirectory(dir=parent) as place:
        folder, out, old = Path(place, "data"), Path(place, "out"), Path(place, "old")
        folder.mkdir()
        check_out(commit, old)
        elsewhere(make_shape, folder, shape, images, per_image)
        file = folder / "all.json"
        for title, arguments in commands(shape, folder, out).items():
            # A script's own folder is looked into first, whatever is installed.
            for code, start in (("before", [str(old / "start.py")]), ("now", ["-m", "relabel"])):
                out.mkdir()
                seconds, cpu, peak = measure([sys.executable, *start, "datasets", *arguments])
                row = {"compared": shape, "command": title, "code": code, "commit": commit}
                row |= {"images": images, "bytes": file.stat().st_size}
                rows.append({**row, "seconds": seconds, "cpu": cpu, "peak_mb": peak})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                shutil.rmtree(out)
    return rows


def check_out(commit: str, folder: Path) -> None:
    """A commit's package, laid out as it is installed, and ``start.py``, which runs it."""
    folder.mkdir()
    here = Path(__file__).parent.parent
    command = ["git", "-C", str(here), "archive", commit, "relabel", "commands", "schemas"]
    archive = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "x", "-C", str(folder)], input=archive, check=True)
    for name in ("commands", "schemas"):
        (folder / name).rename(folder / "relabel" / name)
    (folder / "start.py").write_text("from relabel.cli import main\n\nmain()\n")


def table(rows: Sequence[dict[str, Any]], kinds: Sequence[str]) -> str:
    """Seconds, their growth, and memory of each command and size."""
    lines, before = [], {}
    for row in sorted(
        (r for r in rows if r.get("kind") in kinds),
        key=lambda r: (kinds.index(r["kind"]), r["command"], r["images"]),
    ):
        last = before.get((row["kind"], row["command"]))
        before[row["kind"], row["command"]] = row
        grown = ["", "", ""]
        if last is not None:
            grown[0] = f"{row['images'] / last['images']:.0f}"
            grown[1] = f"{row['cpu'] / last['cpu']:.1f}"
            added = (row["peak_mb"] - last["peak_mb"]) * 2**20 / (row["boxes"] - last["boxes"])
            grown[2] = f"{added:.0f}"
        lines.append(
            [
                f"{row['kind']}: {row['command']}",
                f"{row['images']:,}",
                f"{row['boxes']:,}",
                f"{row['seconds']:.1f}",
                f"{row['cpu']:.1f}",
                f"{row['cpu'] / row['images'] * 1e5:.1f}",
                f"{row['peak_mb']:,.0f}",
                *grown,
            ]
        )
    head = ["", "images", "boxes", "s", "CPU s", "CPU s per 100,000 images", "peak MB"]
    head += ["times the images", "times the CPU s", "bytes per further box"]
    return markdown((head, lines)).strip()


def comparison(rows: Sequence[dict[str, Any]]) -> str:
    """What an earlier commit took, beside ours."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if "compared" in row:
            found.setdefault((row["compared"], row["command"]), {})[row["code"]] = row
    lines = []
    for (shape, title), of in found.items():
        before, now = of["before"], of["now"]
        lines.append(
            [
                f"{shape}: {title}",
                f"{now['images']:,}",
                f"{now['bytes'] / 1e6:.0f}",
                *(f"{r['seconds']:.1f}" for r in (before, now)),
                *(f"{r['cpu']:.1f}" for r in (before, now)),
                f"{before['cpu'] / now['cpu']:.1f}",
                *(f"{r['peak_mb']:,.0f}" for r in (before, now)),
            ]
        )
    head = ["", "images", "MB", "before, s", "now, s", "before, CPU s", "now, CPU s"]
    head += ["ratio of CPU s", "before, peak MB", "now, peak MB"]
    return markdown((head, lines)).strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="10000,100000,1000000", help="images")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--shapes", default=",".join(SHAPES), help="or none")
    parser.add_argument("--shape-sizes", default="2000,8000,32000", help="images")
    parser.add_argument("--per-image", type=int, default=10, help="boxes")
    parser.add_argument("--before", metavar="COMMIT", help="compare with its code")
    parser.add_argument("--folder", type=Path, help="where datasets are made; default the system's")
    parser.add_argument("--keep", type=Path, help="folder that keeps what was converted")
    parser.add_argument("--json", type=Path, help="adds the measurements to this file")
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file")
    options = parser.parse_args()
    kinds = [k for k in options.kinds.split(",") if k in KINDS]
    if {"coco", "yolo"} <= set(kinds):
        kinds = ["coco+yolo", *(k for k in kinds if k not in ("coco", "yolo"))]
    shapes = [s for s in options.shapes.split(",") if s in SHAPES]
    rows: list[dict[str, Any]] = []
    if options.json is not None and options.json.is_file():
        rows = json.loads(options.json.read_text())
    jobs = [(k, int(n)) for k in shapes for n in options.shape_sizes.split(",")]
    jobs += [(k, int(n)) for n in options.sizes.split(",") for k in kinds]
    for kind, images in jobs:
        done = {r["kind"] for r in rows if "kind" in r and r["images"] == images}
        if set(kind.split("+")) <= done:
            continue
        rows += run(kind, images, options.per_image, options.folder, options.keep)
        if options.json is not None:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.before is not None and not any("compared" in r for r in rows):
        for shape in COMPARED:
            rows += compare(shape, options.folder, options.before)
        if options.json is not None:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
    text = report(rows, options.per_image)
    print(text)
    if options.out is not None:
        options.out.write_text(text)
    return 0


def report(rows: Sequence[dict[str, Any]], per_image: int) -> str:
    command = " ".join(["python benchmarks/scale.py", *sys.argv[1:]])
    about = {"cores": os.cpu_count(), "machine": platform.machine(), "per_image": per_image}
    parts = [NOTES.format(command=command, **about), table(rows, KINDS)]
    measured = {r.get("kind") for r in rows} & set(SHAPES)
    if measured:
        shapes = "\n".join(f"- {name}: {SHAPES[name]}" for name in SHAPES if name in measured)
        parts += [f"## COCO files of an odd shape\n\n{shapes}", table(rows, list(SHAPES))]
    if any("compared" in r for r in rows):
        commit = next(r["commit"] for r in rows if "compared" in r)
        parts += [f"## Beside commit {commit}", comparison(rows)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
