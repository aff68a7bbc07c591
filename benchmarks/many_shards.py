"""Does labelling many images take flat memory, and are ten thousand shards still quickly resumed?

    python benchmarks/many_shards.py --photos SHARED/data/voc100/JPEGImages \\
        --json many_shards.json --out benchmarks/many_shards.md

`cross_label` with a stand-in that returns the same detections for every image, so that what is left
is relabel's own: reading photos, filters, NMS, shards. Two dozen real photos, made small, stand for
all images under names of their own. What it takes is measured in a process of its own for each
number of images and of shards; shards are taken away and damaged, and must come back byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relabel.crosslabel.label import cross_label
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.crosslabel.shards import read_pseudo_labels
from relabel.datasets.dataset import DetectionDataset, Images, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections
from relabel.evaluation.tables import markdown
from relabel.settings import Runtime
from relabel.workspace.stage import Shards, Stage

PHOTOS, SIDE, CLASSES, BOXES = 24, 160, 80, 20
PER_SHARD = 2  # images, where it is the number of shards that matters
SOME = 10  # shards that are taken away, and that are damaged
NOTES = """\
# Memory of a long labelling, and ten thousand shards

    {command}

`cross_label` with a stand-in detector that returns the same {boxes} detections over {classes} classes for every image, so that what is left is relabel's own work: reading photos, filters, NMS, shards. {photos} real photos, {side} pixels on the long side, stand for all images. {cores} cores shared with other work: CPU seconds (user and system, all threads) tell more than those on the clock.

Memory should stay where it is once libraries, the list of images and threads are there. A resumed labelling reads every shard and compares the digests of its values; shards that were taken away or damaged (a bit of a value turned) came back byte for byte, or the script fails. The manifest keeps size and SHA-256 of every shard; the status of a stage looks at sizes alone.

What it does not show: files come from the page cache, the stand-in takes no memory of its own, and shards of {per_shard} images are small: a full one takes longer to check, as its values are more. Making a shard waits for the disk twice, for its bytes and its name. Only the local engine was measured.
"""  # noqa: E501


class StandIn:
    """Returns the same detections for every image, and calls ``seen`` with how many it got."""

    def __init__(self, seen: Callable[[int], None] | None = None) -> None:
        self.space = LabelSpace.from_names("stand-in", [f"class {i}" for i in range(CLASSES)])
        self.seen = seen
        rng = np.random.default_rng(0)
        low = rng.uniform(0, SIDE / 2, (BOXES, 2))
        boxes = np.hstack([low, low + rng.uniform(4, SIDE / 4, (BOXES, 2))])
        scores = rng.dirichlet(np.full(CLASSES, 0.1), BOXES)
        self.found = Detections(boxes.astype(np.float32), scores.astype(np.float32))

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        if self.seen is not None:
            self.seen(len(images))
        return [self.found] * len(images)


def make_photos(source: Path, folder: Path) -> None:
    """The first photos of a folder, made small."""
    from PIL import Image

    folder.mkdir()
    for file in sorted(source.glob("*.jpg"))[:PHOTOS]:
        with Image.open(file) as photo:
            photo.thumbnail((SIDE, SIDE))
            photo.convert("RGB").save(folder / file.name)


def repeated(folder: Path, images: int) -> DetectionDataset:
    """A dataset whose images are those of a folder again and again."""
    from PIL import Image

    places, sizes = [], []
    for file in sorted(folder.glob("*.jpg")):
        with Image.open(file) as photo:
            places.append(str(file))
            sizes.append(photo.size)
    at = np.arange(images) % len(places)
    width, height = np.array(sizes, np.int32)[at].T
    table = Images(
        np.arange(1, images + 1),
        [f"{i:07d}.jpg" for i in range(images)],
        width,
        height,
        location=[places[i] for i in at.tolist()],
    )
    space = LabelSpace.from_names("photos", ["thing"])
    return DetectionDataset("photos", space, table, make_boxes([], [], []), folder)


def label(dataset: DetectionDataset, out: Path, per_shard: int, detector: StandIn) -> None:
    cross_label(
        Path("no-checkpoint"),
        dataset,
        out,
        CrossLabelSettings(batch_size=32, shard_images=per_shard),
        Runtime(device="cpu", quiet=True),
        detector=detector,
    )


def resident_mb() -> float:
    """What of the process is in memory now."""
    with open("/proc/self/statm") as stream:  # noqa: PTH123
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(folder: Path, images: int) -> dict[str, Any]:
    """Memory and time at each quarter of a labelling."""
    per_shard = CrossLabelSettings().shard_images
    rows: list[dict[str, float]] = []
    marks = [2 * per_shard, *(images * part // 4 for part in (1, 2, 3)), images]
    done, start = 0, (time.perf_counter(), time.process_time())

    def seen(count: int) -> None:
        nonlocal done
        done += count
        while len(rows) < len(marks) and done >= marks[len(rows)]:
            rows.append(
                {
                    "images": done,
                    "resident_mb": resident_mb(),
                    "peak_mb": peak_mb(),
                    "seconds": time.perf_counter() - start[0],
                    "cpu": time.process_time() - start[1],
                }
            )

    label(repeated(folder / "photos", images), folder / "out", per_shard, StandIn(seen))
    return {"what": "memory", "images": images, "rows": rows}


def shards(folder: Path, count: int) -> dict[str, Any]:
    """Seconds of making, resuming and reading shards."""
    out, detector = folder / "stage", StandIn()
    dataset = repeated(folder / "photos", count * PER_SHARD)
    parts = Shards(out, total=len(dataset), size=PER_SHARD)
    # Modules and threads are there before anything is measured.
    label(repeated(folder / "photos", PHOTOS), folder / "first", PER_SHARD, detector)
    read_pseudo_labels(folder / "first")
    took: dict[str, tuple[float, float]] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter(), time.process_time()
        value = work()
        took[what] = time.perf_counter() - start[0], time.process_time() - start[1]
        print(f"{count} shards, {what}: {took[what]}", file=sys.stderr, flush=True)
        return value

    def again() -> None:
        label(dataset, out, PER_SHARD, detector)

    timed("the same images in shards of 256", lambda: label(dataset, folder / "few", 256, detector))
    stage = Stage("cross-label", out, settings={}, shards=parts)
    stage.begin()
    timed("made", again)
    before = digests(parts.paths)
    timed("resumed, all there", again)
    some = parts.paths[:: max(1, count // SOME)][:SOME]
    for path in some:
        path.unlink()
    timed(f"resumed, {SOME} taken away", again)
    if digests(parts.paths) != before:
        raise SystemExit("shards that were made again differ")
    for path in some:
        damage(path)
    timed(f"resumed, {SOME} damaged", again)
    if digests(parts.paths) != before:
        raise SystemExit("damaged shards were not made again")
    timed("manifest written", stage.finish)
    if timed("status of the stage", stage.status) != "done":
        raise SystemExit("the stage is not done")
    timed("all labels read", lambda: read_pseudo_labels(out))
    size = sum(path.stat().st_size for path in parts.paths)
    return {"what": "shards", "shards": count, "took": took, "bytes": size, "peak_mb": peak_mb()}


def damage(path: Path) -> None:
    """Change the last byte of the last column's values."""
    import pyarrow.parquet as pq

    last = pq.read_metadata(path).row_group(0).to_dict()["columns"][-1]
    data = bytearray(path.read_bytes())
    data[last["data_page_offset"] + last["total_compressed_size"] - 1] ^= 1
    path.write_bytes(data)


def digests(paths: Sequence[Path]) -> list[bytes]:
    return [hashlib.sha256(path.read_bytes()).digest() for path in paths]


def report(found: Sequence[dict[str, Any]]) -> str:
    command = " ".join(["python benchmarks/many_shards.py", *sys.argv[1:]])
    command = command.replace(os.environ.get("RELABEL_SHARED") or "SHARED", "SHARED")
    about = {"boxes": BOXES, "classes": CLASSES, "photos": PHOTOS, "side": SIDE}
    about |= {"cores": os.cpu_count(), "per_shard": PER_SHARD}
    parts = [NOTES.format(command=command, **about).strip()]
    for each in (f for f in found if f["what"] == "memory"):
        lines = [
            [
                f"{row['images']:,}",
                f"{row['images'] / each['images']:.0%}",
                f"{row['resident_mb']:.0f}",
                f"{row['peak_mb']:.0f}",
                f"{row['seconds']:.0f}",
                f"{row['cpu']:.0f}",
            ]
            for row in each["rows"]
        ]
        head = ["images labelled", "of all", "in memory, MB", "peak so far, MB", "s", "CPU s"]
        parts.append(markdown((head, lines)).strip())
    sizes = sorted((f for f in found if f["what"] == "shards"), key=lambda f: f["shards"])
    if sizes:
        head = [""]
        for each in sizes:
            head += [f"{each['shards']:,} shards, s", "CPU s", "CPU ms a shard"]
        lines = []
        for what in sizes[0]["took"]:
            line = [what]
            for each in sizes:
                seconds, cpu = each["took"][what]
                line += [f"{seconds:.1f}", f"{cpu:.1f}", f"{cpu / each['shards'] * 1000:.2f}"]
            lines.append(line)
        parts.append(markdown((head, lines)).strip())
        parts.append(
            "\n".join(
                f"{each['shards']:,} shards of {PER_SHARD} images: {each['bytes'] / 1e6:.0f} MB, "
                f"peak of the process, with all labels read, {each['peak_mb']:.0f} MB."
                for each in sizes
            )
        )
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--shards", default="1000,10000")
    parser.add_argument("--folder", type=Path, help="where files are made; default the system's")
    parser.add_argument("--json", type=Path, help="adds the measurements to this file")
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        work = {"memory": memory, "shards": shards}[options.one[0]]
        print(json.dumps(work(options.folder, int(options.one[1]))))
        return 0
    found: list[dict[str, Any]] = []
    if options.json is not None and options.json.is_file():
        found = json.loads(options.json.read_text())
    jobs = [("shards", int(n)) for n in options.shards.split(",")]
    jobs += [("memory", options.images)] if options.images else []
    for what, count in jobs:
        if any(f["what"] == what and count in (f.get("images"), f.get("shards")) for f in found):
            continue
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        try:
            make_photos(options.photos, folder / "photos")
            command = [sys.executable, __file__, "--one", what, str(count)]
            command += ["--photos", str(options.photos), "--folder", str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        finally:
            shutil.rmtree(folder)
        found.append(json.loads(done.stdout))
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    text = report(found)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
