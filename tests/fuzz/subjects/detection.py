"""Detection datasets in every format that can be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.builders import datasets, native, waymo
from tests.builders.datasets import edit_json, write_image, write_json
from tests.fuzz.subjects.base import DATA, OUT, Subject

TARGETS = ("coco", "coco", "voc", "yolo", "fiftyone")


def detection_commands(
    path: str, format: str, *, split: str | None = None, packed: bool = False
) -> Callable[[Random], list[str]]:
    """Describing, validating and converting, and the reading part of commands that train."""
    where = f"{DATA}/{path}" if path else DATA

    def draw(rng: Random) -> list[str]:
        source = [where, "--format", format]
        if split is not None and rng.random() < 0.6:
            source += ["--split", split]
        kind = rng.choices(
            [
                "describe",
                "validate",
                "convert",
                "training_set",
                "train-specialist",
                "train-classifier",
            ],
            [24, 24, 40, 9, 1, 2],
        )[0]
        skip = ["--skip-bad"] if rng.random() < 0.5 else []
        if kind == "describe":
            return ["datasets", kind, *source, *skip, *_sometimes(rng, "--json")]
        if kind == "validate":
            return ["datasets", kind, *source, *_sometimes(rng, "--json", "--no-decode", "--quiet")]
        if kind == "training_set":
            return ["call:training_set", where, format, split or "", "skip" if skip else ""]
        if kind == "train-specialist":
            return [kind, *source, *skip, "--out", f"{OUT}/specialist", "--workers", "1"]
        if kind == "train-classifier":
            return [kind, "--dataset", *source, *skip, "--out", f"{OUT}/classifier"]
        to = rng.choice(TARGETS)
        out = f"{OUT}/set.json" if to == "coco" and rng.random() < 0.5 else f"{OUT}/set"
        args = ["datasets", "convert", *source, *skip, "--to", to, "--out", out]
        args += ["--images", rng.choice(["auto", "none", "link", "copy"])]
        return args + (_sometimes(rng, "--extract-images") if packed else [])

    return draw


def _sometimes(rng: Random, *options: str) -> list[str]:
    return [option for option in options if rng.random() < 0.4]


def _coco(root: Path) -> None:
    datasets.coco_set(root.parent, root.name, ["car", "van"])

    def change(value: dict[str, Any]) -> None:
        value["info"] = {"description": "small", "relabel": {"root": "."}}
        value["licenses"] = [{"id": 1, "name": "CC", "url": ""}]
        first, second, third = value["annotations"][:3]
        first["segmentation"] = [[4.0, 5.0, 12.0, 5.0, 12.0, 11.0, 4.0, 11.0]]
        second |= {"iscrowd": 1, "segmentation": {"size": [48, 64], "counts": [100, 20, 2952]}}
        third |= {"score": 0.5, "attributes": {"occluded": True}, "keypoints": [5, 6, 2]}
        value["categories"][0] |= {"supercategory": "vehicle", "keypoints": ["nose"]}

    edit_json(root / "train.json", change)


def _lvis(root: Path) -> None:
    _coco(root)

    def change(value: dict[str, Any]) -> None:
        for i, image in enumerate(value["images"]):
            name = image.pop("file_name")
            image |= {"coco_url": f"http://images.cocodataset.org/{name}"}
            image |= {"neg_category_ids": [2] if i else [], "not_exhaustive_category_ids": [1]}
        for category in value["categories"]:
            category |= {"frequency": "c", "synset": "car.n.01", "synonyms": ["auto"], "def": ""}

    edit_json(root / "train.json", change)


def build_voc(root: Path) -> None:
    for i in range(3):
        write_image(root / f"JPEGImages/2007_{i:06d}.jpg", 64, 48)
        objects = "".join(
            f"<object><name>{name}</name><pose>Left</pose><truncated>{t}</truncated>"
            f"<difficult>{d}</difficult><bndbox><xmin>{x}</xmin><ymin>5</ymin><xmax>{x + 9}</xmax>"
            "<ymax>15</ymax></bndbox></object>"
            for name, x, t, d in (("dog", 3, 0, 0), ("person", 20 + i, 1, 1))
        )
        (root / "Annotations").mkdir(exist_ok=True)
        (root / f"Annotations/2007_{i:06d}.xml").write_text(
            f'<?xml version="1.0"?><annotation><folder>VOC</folder><filename>2007_{i:06d}.jpg'
            "</filename><size><width>64</width><height>48</height><depth>3</depth></size>"
            f"<segmented>0</segmented>{objects}</annotation>"
        )
    lists = root / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000000\n2007_000001\n")
    (lists / "val.txt").write_text("2007_000002\n")


def _yolo(row: str, more: str = "") -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for split, names in (("train", ("a", "b")), ("val", ("c",))):
            for name in names:
                write_image(root / f"images/{split}/{name}.jpg", 64, 48)
                label = root / f"labels/{split}/{name}.txt"
                label.parent.mkdir(parents=True, exist_ok=True)
                label.write_text(f"0 {row}\n1 {row}\n")
        (root / "data.yaml").write_text(
            "path: .\ntrain: images/train\nval: images/val\nnc: 2\n"
            f"names:\n  0: car\n  1: van\n{more}"
        )

    return build


def _darknet(root: Path) -> None:
    lines = []
    for name in ("a", "b", "c"):
        write_image(root / f"obj_train_data/{name}.jpg", 64, 48)
        (root / f"obj_train_data/{name}.txt").write_text("0 0.5 0.5 0.25 0.25\n1 0.2 0.2 0.1 0.1\n")
        lines.append(f"data/obj_train_data/{name}.jpg")
    (root / "train.txt").write_text("\n".join(lines) + "\n")
    (root / "obj.names").write_text("car\nvan\n")
    (root / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )


def _waymo_v1(root: Path) -> None:
    waymo.waymo_v1(root)


def _cityscapes(root: Path) -> None:
    native.cityscapes(root)


def _city_polygons(root: Path) -> None:
    native.cityscapes(root, instances=False)


def _nuimages(root: Path) -> None:
    native.nuimages(root)
    for name in ("samples/CAM_FRONT/a.jpg", "samples/CAM_BACK/c.jpg"):
        write_image(root / name, 1600, 900)


def _shift_unpacked(root: Path) -> None:
    native.shift(root, store="img")


def _fiftyone(root: Path) -> None:
    samples = []
    for i in range(3):
        write_image(root / f"data/{i:03d}.png", 64, 48)
        detections = [
            {
                "_id": {"$oid": f"{16 * i + j:024x}"},
                "_cls": "Detection",
                "attributes": {},
                "tags": [],
                "label": label,
                "bounding_box": [0.1, 0.2, 0.25, 0.25],
                "confidence": None,
                "iscrowd": 0,
            }
            for j, label in enumerate(("car", "van"))
        ]
        samples.append(
            {
                "_id": {"$oid": f"{i + 1:024x}"},
                "filepath": f"data/{i:03d}.png",
                "tags": ["train"],
                "metadata": {"_cls": "ImageMetadata", "width": 64, "height": 48},
                "ground_truth": {"_cls": "Detections", "detections": detections},
            }
        )
    write_json(root / "samples.json", {"samples": samples})
    fields = [
        ("filepath", "fiftyone.core.fields.StringField", None),
        ("tags", "fiftyone.core.fields.ListField", None),
        (
            "ground_truth",
            "fiftyone.core.fields.EmbeddedDocumentField",
            "fiftyone.core.labels.Detections",
        ),
    ]
    described = [{"name": n, "ftype": t, "embedded_doc_type": e} for n, t, e in fields]
    write_json(
        root / "metadata.json",
        {"name": "small", "media_type": "image", "sample_fields": described, "info": {}},
    )


def _built(function: Callable[..., Any]) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        function(root)

    return build


_BOX = "0.5 0.5 0.25 0.25"
DETECTION: tuple[Subject, ...] = (
    Subject("coco", _coco, detection_commands("train.json", "coco"), 24),
    Subject("coco folder", _coco, detection_commands("", "coco", split="train"), 6),
    Subject("lvis", _lvis, detection_commands("train.json", "coco"), 6),
    Subject("voc", build_voc, detection_commands("", "voc", split="train"), 14),
    Subject("yolo", _yolo(_BOX), detection_commands("", "yolo", split="val"), 16),
    Subject(
        "yolo polygons",
        _yolo("0.1 0.1 0.5 0.1 0.5 0.5"),
        detection_commands("data.yaml", "yolo"),
        4,
    ),
    Subject(
        "yolo pose",
        _yolo(f"{_BOX} 0.4 0.4 2 0.6 0.6 1", "kpt_shape: [2, 3]\nflip_idx: [1, 0]\n"),
        detection_commands("data.yaml", "yolo", split="val"),
        6,
    ),
    Subject(
        "yolo oriented",
        _yolo("0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"),
        detection_commands("", "yolo", split="train"),
        4,
    ),
    Subject("darknet", _darknet, detection_commands("", "yolo", split="train"), 6),
    Subject("cityscapes", _cityscapes, detection_commands("", "cityscapes", split="train"), 8),
    Subject(
        "cityscapes polygons",
        _city_polygons,
        detection_commands("", "cityscapes", split="train"),
        6,
    ),
    Subject("nuimages", _nuimages, detection_commands("", "nuimages", split="train"), 10),
    Subject("waymo v1", _waymo_v1, detection_commands("", "waymo", packed=True), 10),
    Subject(
        "waymo v2",
        _built(waymo.waymo_v2),
        detection_commands("", "waymo", split="training", packed=True),
        10,
    ),
    Subject("bdd100k", _built(native.bdd100k), detection_commands("", "bdd100k", split="train"), 9),
    Subject(
        "shift",
        _built(native.shift),
        detection_commands("", "shift", split="train", packed=True),
        10,
    ),
    Subject("shift unpacked", _shift_unpacked, detection_commands("", "shift", split="train"), 4),
    Subject("acdc", _built(native.acdc), detection_commands("", "acdc", split="train"), 8),
    Subject("fiftyone", _fiftyone, detection_commands("", "fiftyone"), 10),
)
