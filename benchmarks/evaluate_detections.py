"""Time of COCO evaluation from files to numbers: relabel against pycocotools, in one run.

    python benchmarks/evaluate_detections.py --rounds 3

Writes a truth file and a results list (5,000 images, 100 detections each, 80 classes, crowd
regions), then measures both whole ways in turn: pycocotools' COCO(), loadRes, evaluate, accumulate
and summarize, and relabel's evaluate_detections with all its checks of the input. Fails if the
twelve numbers differ by more than 1e-9 or the median is not --least times faster.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from relabel.evaluation.detections import NUMBERS, evaluate_detections


def write_case(folder: Path, images: int, detections: int, classes: int, seed: int) -> None:
    """truth.json and results.json: boxes of all sizes, detections near and far from them."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, images + 1):
        n = int(rng.integers(1, 16))
        size = rng.lognormal(4, 1, (n, 2)).clip(2, 600).round(2)
        boxes = np.concatenate([(rng.random((n, 2)) * 500).round(2), size], axis=1)
        category = rng.integers(1, classes + 1, n)
        crowd = rng.random(n) < 0.03
        for j in range(n):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(category[j]),
                    "bbox": boxes[j].tolist(),
                    "area": float(size[j].prod() * 0.8),
                    "iscrowd": int(crowd[j]),
                }
            )
        of = rng.integers(0, n, detections)
        found = boxes[of] + rng.normal(0, 6, (detections, 4))
        found[:, 2:] = np.abs(found[:, 2:]) + 1
        # Rounding makes equal scores common, so that their order is tested too.
        score = rng.random(detections).round(3)
        guess = rng.integers(1, classes + 1, detections)
        kind = np.where(rng.random(detections) < 0.7, category[of], guess)
        for j, box in enumerate(found.round(2).tolist()):
            results.append(
                {
                    "image_id": image,
                    "category_id": int(kind[j]),
                    "bbox": box,
                    "score": float(score[j]),
                }
            )
    truth = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, classes + 1)],
        "annotations": annotations,
    }
    (folder / "truth.json").write_bytes(msgspec.json.encode(truth))
    (folder / "results.json").write_bytes(msgspec.json.encode(results))


def with_pycocotools(folder: Path) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        engine = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "bbox")
        engine.evaluate()
        engine.accumulate()
        engine.summarize()
    return [float(value) for value in engine.stats]


def with_relabel(folder: Path) -> list[float]:
    metrics = evaluate_detections(folder / "truth.json", folder / "results.json")
    values = [getattr(metrics, name) for name in NUMBERS]
    return [-1.0 if value is None else value for value in values]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=20.0)
    options = parser.parse_args()
    ways = {"pycocotools": with_pycocotools, "relabel": with_relabel}
    times: dict[str, list[float]] = {name: [] for name in ways}
    work: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_case(folder, options.images, options.detections, options.classes, options.seed)
        for _ in range(options.rounds):
            for name, way in ways.items():
                start, busy = time.perf_counter(), time.process_time()
                values[name] = way(folder)
                times[name].append(time.perf_counter() - start)
                work[name].append(time.process_time() - busy)
                print(f"{name}: {times[name][-1]:.2f} s", file=sys.stderr, flush=True)
    apart = max(abs(a - b) for a, b in zip(*values.values(), strict=True))
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    busy_median = {name: statistics.median(seconds) for name, seconds in work.items()}
    ratio = median["pycocotools"] / median["relabel"]
    print(
        f"{options.images} images x {options.detections} detections, {options.classes} classes, "
        f"Python {platform.python_version()}, pycocotools {version('pycocotools')}, "
        f"hotcoco {version('hotcoco')}\n"
    )
    print("| | median | all rounds | median processor time, all threads |\n|---|---:|---|---:|")
    for name, seconds in times.items():
        rounds = ", ".join(f"{s:.2f}" for s in seconds)
        print(f"| {name} | {median[name]:.2f} s | {rounds} | {busy_median[name]:.2f} s |")
    print(
        f"\nratio {ratio:.1f} ({busy_median['pycocotools'] / busy_median['relabel']:.1f} in "
        f"processor time), largest difference of the twelve numbers {apart:.1e}"
    )
    return 0 if apart <= 1e-9 and ratio >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
