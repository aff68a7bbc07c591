"""What is measured: detections and multi-labels with their truths; images in class folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.builders.datasets import coco_set, edit_json, write_image, write_json
from tests.fuzz.subjects.base import DATA, OUT, Subject

_IMAGENET = "ILSVRC2012_val_{:08d}.JPEG"


def _results(root: Path) -> None:
    """COCO truth, a results list, and COCO files of predictions and of the source."""
    coco_set(root, "set", ["car", "van"])
    boxes = [
        {"image_id": i, "category_id": c, "bbox": [4 + 10 * c, 5.5, 8, 6], "score": 0.9 - i / 10}
        for i in range(1, 5)
        for c in (1, 2)
    ]
    write_json(root / "results.json", boxes)
    truth = (root / "set/train.json").read_text()
    for name in ("truth.json", "scored.json", "source.json"):
        (root / name).write_text(truth)

    def score(value: dict[str, Any]) -> None:
        for i, annotation in enumerate(value["annotations"]):
            annotation["score"] = 0.9 - i / 20

    edit_json(root / "scored.json", score)
    (root / "map.yaml").write_text("car: car\nvan: van\n")


def _result_commands(rng: Random) -> list[str]:
    truth = ["--truth", f"{DATA}/truth.json"]
    predictions = rng.choice(["results.json", "scored.json"])
    given = [*truth, "--predictions", f"{DATA}/{predictions}"]
    more = ["--json"] if rng.random() < 0.4 else []
    more += ["--out", f"{OUT}/metrics.json"] if rng.random() < 0.2 else []
    kind = rng.choice(["detections", "detections", "errors", "transfer", "convert"])
    if kind == "transfer":
        given = [*truth, "--predictions", f"{DATA}/scored.json"]
        if rng.random() < 0.5:
            given += ["--source", f"{DATA}/source.json"]
    if kind == "convert":
        source = ["datasets", "convert", f"{DATA}/set/train.json", "--map", f"{DATA}/map.yaml"]
        return [*source, "--to", "coco", "--out", f"{OUT}/set.json"]
    return ["evaluate", kind, *given, *more]


def _multilabels(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir(parents=True, exist_ok=True)
    names = [_IMAGENET.format(i + 1) for i in range(4)]
    write_json(root / "real.json", [[0], [], [1, 2], [0, 1, 3]])
    write_json(root / "inv2.json", {n: [str(i % 3), "3"] for i, n in enumerate(names)})
    rows = "".join(f"{n}\t{i}\t{i},{(i + 1) % 4}\t0.9,0.6\n" for i, n in enumerate(names))
    (root / "truth.tsv").write_text(rows)
    (root / "predictions.tsv").write_text(rows.replace("0.6", "0.4"))
    scores = [
        [0.9, 0.1, 0.5, 0.3],
        [0.0, 0.0, 0.0, 1.0],
        [0.8, 0.6, 0.4, 0.2],
        [0.1, 0.7, 0.9, 0.3],
    ]
    pq.write_table(pa.table({"filename": names, "scores": scores}), root / "dense.parquet")
    sparse = {"file_name": names, "ids": [[0, 2], [3], [0], [2, 1]]}
    sparse["probs"] = [[0.9, 0.5], [1.0], [0.8], [0.9, 0.7]]
    table = pa.table(sparse).replace_schema_metadata({"class_names": '["a", "b", "c", "d"]'})
    pq.write_table(table, root / "sparse.parquet")


def _multilabel_commands(rng: Random) -> list[str]:
    truth = rng.choice(["real.json", "inv2.json", "truth.tsv"])
    found = rng.choice(["dense.parquet", "sparse.parquet", "predictions.tsv"])
    args = ["--truth", f"{DATA}/{truth}", "--predictions", f"{DATA}/{found}"]
    for option in ("--json", "--allow-missing"):
        args += [option] if rng.random() < 0.4 else []
    if rng.random() < 0.2:
        args += ["--classes", "4"]
    return ["evaluate", "multilabel", *args]


def _detection_truths(root: Path) -> None:
    """Multi-labels measured against detection sets and ImageNetV2's folders."""
    coco_set(root, "coco", ["car", "van"])
    names = [f"images/{i:03d}.png" for i in range(4)]
    rows = "".join(f"{n}\t0\t0,1\t0.9,0.6\n" for n in names)
    (root / "coco.tsv").write_text(rows)
    from tests.fuzz.subjects.detection import build_voc

    build_voc(root / "voc")
    (root / "voc.tsv").write_text("".join(f"2007_{i:06d}.jpg\t0\t0,1\t0.9,0.6\n" for i in range(3)))
    for label in (0, 1, 10):
        write_image(root / f"v2/{label}/{label}a.jpeg", 16, 16)
    (root / "v2.tsv").write_text("".join(f"{c}/{c}a.jpeg\t{c}\t{c}\t0.9\n" for c in (0, 1, 10)))


def _detection_truth_commands(rng: Random) -> list[str]:
    kind = rng.choice(["coco", "voc", "v2"])
    truth = {"coco": "coco/train.json", "voc": "voc", "v2": "v2"}[kind]
    args = ["--truth", f"{DATA}/{truth}", "--predictions", f"{DATA}/{kind}.tsv"]
    if kind == "voc" and rng.random() < 0.5:
        args += ["--truth-format", "voc"]
    return ["evaluate", "multilabel", *args, "--classes-by", "position", "--allow-missing"]


def _image_folder(root: Path) -> None:
    for label in ("ant", "bee"):
        for i in range(3):
            write_image(root / f"images/{label}/{i}.jpg", 32, 24)
    files = [f"{label}/{i}.jpg" for label in ("ant", "bee") for i in range(3)]
    (root / "labels.tsv").write_text("".join(f"{f}\t{f.split('/')[0]}\n" for f in files))
    (root / "labels.csv").write_text("".join(f"{f},{f.split('/')[0]}\n" for f in files))
    (root / "multi.tsv").write_text("".join(f"{f}\t0\t0,1\t0.9,0.5\n" for f in files))
    (root / "classes.txt").write_text("ant\nbee\n")
    (root / "classes.yaml").write_text("names:\n  0: ant\n  1: bee\n")
    (root / "space.yaml").write_text(
        "name: insects\ncategories:\n- {id: 1, name: ant, aliases: [emmet]}\n- {id: 2, name: bee}\n"
    )


def _image_folder_commands(rng: Random) -> list[str]:
    images = ["--images", f"{DATA}/images"]
    classes = rng.choice([None, "classes.txt", "classes.yaml", "space.yaml"])
    named = [] if classes is None else ["--classes", f"{DATA}/{classes}"]
    skip = ["--skip-bad"] if rng.random() < 0.5 else []
    kind = rng.choices(["imagenet-multilabel", "train-classifier", "pixels"], [2, 2, 6])[0]
    if kind == "train-classifier":
        labels = ["--labels", f"{DATA}/multi.tsv"] if rng.random() < 0.7 else []
        return [kind, *images, *labels, *named, *skip, "--out", f"{OUT}/classifier"]
    table = rng.choice([None, "labels.tsv", "labels.csv"])
    labels = [] if table is None else ["--labels", f"{DATA}/{table}"]
    if kind == "pixels":
        given = [(option or ["", ""])[1] for option in (labels, named)]
        return ["call:image_folder", f"{DATA}/images", *given, "skip" if skip else ""]
    return [kind, *images, *labels, *named, *skip, "--dry-run", "--out", f"{OUT}/labels"]


def _built(build: Callable[[Path], None]) -> Callable[[Path], None]:
    def made(root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        build(root)

    return made


LABELS: tuple[Subject, ...] = (
    Subject("results", _built(_results), _result_commands, 20),
    Subject("multilabels", _built(_multilabels), _multilabel_commands, 18),
    Subject("truths", _built(_detection_truths), _detection_truth_commands, 8),
    Subject("image folder", _built(_image_folder), _image_folder_commands, 16),
)
