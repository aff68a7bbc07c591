"""Tiny datasets in the native layouts, written from the formats' descriptions.

Nothing here imports the readers: encodings (protobuf, TFRecord checksums, instance maps) are
written a second time, so that a reader and its fixture cannot share a mistake.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.builders.datasets import jpeg, write_image, write_json

Json = dict[str, Any]


# Cityscapes -----------------------------------------------------------------------------------

CITY_SIZE = (64, 32)
# (label, first column, first row, last column, last row), far to near, in whole pixels.
CITY_SCENE = [
    ("road", 0, 0, 63, 31),
    ("car", 10, 4, 29, 11),
    ("license plate", 24, 9, 29, 11),  # id -1: part of the car, drawn by nobody
    ("person", 25, 2, 34, 15),  # stands before the car
    ("person", 2, 20, 10, 25),
    ("pole", 5, 0, 7, 31),  # cuts the second person in two
    ("cargroup", 40, 18, 49, 27),
    ("cargroup", 60, 0, 63, 3),
    ("caravan", 20, 28, 24, 30),
    ("out of roi", 0, 31, 63, 31),
]
CITY_IDS = {"road": 7, "car": 26, "person": 24, "pole": 17, "caravan": 29, "out of roi": 3}


def cityscapes(
    root: Path,
    *,
    split: str = "train",
    frames: tuple[str, ...] = ("aachen_000000_000019", "bonn_000001_000004"),
    instances: bool = True,
    polygons: bool = True,
    images: bool = True,
) -> Path:
    """Frames of one scene; the first part of a frame's name is its city."""
    width, height = CITY_SIZE
    for frame in frames:
        city = frame.split("_")[0]
        truth = root / "gtFine" / split / city
        truth.mkdir(parents=True, exist_ok=True)
        if images:
            write_image(
                root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png", width, height
            )
        if instances:
            write_instance_ids(truth / f"{frame}_gtFine_instanceIds.png", city_instance_map())
        if polygons:
            write_json(truth / f"{frame}_gtFine_polygons.json", city_polygons())
    return root


def city_instance_map() -> np.ndarray:
    ids = np.zeros(CITY_SIZE[::-1], dtype=np.uint16)
    counts: dict[str, int] = {}
    for label, x0, y0, x1, y1 in CITY_SCENE:
        if label == "license plate":
            continue
        single = label.removesuffix("group")
        value = CITY_IDS[single]
        if value >= 24 and single == label:
            value = value * 1000 + counts.get(label, 0)
            counts[label] = counts.get(label, 0) + 1
        ids[y0 : y1 + 1, x0 : x1 + 1] = value
    return ids


def write_instance_ids(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(ids).save(path)
    with Image.open(path) as image:
        assert image.mode == "I;16"


def city_polygons() -> Json:
    objects = [
        {"label": label, "polygon": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]}
        for label, x0, y0, x1, y1 in CITY_SCENE
    ]
    deleted = {"label": "bus", "polygon": [[0, 0], [63, 0], [63, 31]], "deleted": 1}
    return {"imgHeight": 32, "imgWidth": 64, "objects": [*objects, deleted]}


# nuImages -------------------------------------------------------------------------------------


def nuimages(root: Path, *, version: str = "v1.0-train") -> Path:
    """Two key frames with a sweep between them, and three boxes."""
    tables = root / version
    names = ["vehicle.car", "static_object.bicycle_rack", "human.pedestrian.adult", "vehicle.ego"]
    write_json(
        tables / "category.json", [{"token": f"c{i}", "name": n} for i, n in enumerate(names)]
    )
    write_json(tables / "attribute.json", [{"token": "a0", "name": "vehicle.moving"}])
    write_json(
        tables / "sample.json",
        [
            {"token": "s0", "timestamp": 1, "log_token": "l", "key_camera_token": "d0"},
            {"token": "s1", "timestamp": 2, "log_token": "l", "key_camera_token": "d2"},
        ],
    )

    def data(token: str, sample: str, key: bool, file_name: str) -> Json:
        return {
            "token": token,
            "sample_token": sample,
            "ego_pose_token": "e",
            "calibrated_sensor_token": "k",
            "filename": file_name,
            "fileformat": "jpg",
            "width": 1600,
            "height": 900,
            "timestamp": 1,
            "is_key_frame": key,
            "prev": "",
            "next": "",
        }

    write_json(
        tables / "sample_data.json",
        [
            data("d0", "s0", True, "samples/CAM_FRONT/a.jpg"),
            data("d1", "s0", False, "sweeps/CAM_FRONT/b.jpg"),
            data("d2", "s1", True, "samples/CAM_BACK/c.jpg"),
        ],
    )

    def ann(token: str, image: str, category: str, bbox: list[int], attributes: list[str]) -> Json:
        return {
            "token": token,
            "category_token": category,
            "bbox": bbox,
            "mask": {"size": [900, 1600], "counts": "UFBgMDBt"},
            "attribute_tokens": attributes,
            "sample_data_token": image,
        }

    write_json(
        tables / "object_ann.json",
        [
            ann("o0", "d2", "c0", [0, 100, 1600, 900], ["a0"]),
            ann("o1", "d0", "c2", [10, 20, 30, 80], []),
            ann("o2", "d0", "c1", [500, 400, 700, 450], []),
        ],
    )
    write_json(tables / "surface_ann.json", [])
    return root


# Scalabel -------------------------------------------------------------------------------------


def scalabel_label(
    number: int, category: str, box: tuple[float, float, float, float] | None, **attributes: Any
) -> Json:
    label: Json = {"id": str(number), "category": category, "attributes": attributes}
    if box is not None:
        label["box2d"] = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    return label


def bdd100k(
    root: Path, *, split: str = "train", file: str = "labels/det_20/det_{split}.json"
) -> Path:
    """Five frames: with boxes, without `labels`, with null, with an empty list, clipped."""
    for i in range(5):
        write_image(root / f"images/100k/{split}/f{i}.jpg", 128, 72)
    frames = [
        {
            "name": "f0.jpg",
            "attributes": {"weather": "clear", "scene": "city street", "timeofday": "night"},
            "timestamp": 10000,
            "labels": [
                scalabel_label(0, "car", (10, 20, 19, 24), occluded=True, truncated=False),
                scalabel_label(1, "person", (30, 30, 30, 30)),  # one pixel
                scalabel_label(2, "bike", (40, 40, 49.5, 50.25)),
                scalabel_label(3, "pedestrian", (60, 10, 89, 29), crowd=True),
                scalabel_label(4, "other vehicle", (1, 1, 4, 4)),
                scalabel_label(5, "lane", None),
            ],
        },
        {"name": "f1.jpg", "timestamp": 10000},
        {"name": "f2.jpg", "labels": None},
        {"name": "f3.jpg", "labels": []},
        {"name": "f4.jpg", "labels": [scalabel_label(0, "van", (100, 60, 127, 80))]},
    ]
    write_json(root / file.format(split=split), frames)
    return root


def shift(root: Path, *, split: str = "train", view: str = "front", store: str = "zip") -> Path:
    """Two frames of one sequence; images in ``img.zip``, in ``img/``, or in the view's folder."""
    folder = root / "discrete/images" / split / view
    folder.mkdir(parents=True)
    names = [f"0000000{i}_img_{view}.jpg" for i in (0, 3)]
    if store == "zip":
        with zipfile.ZipFile(folder / "img.zip", "w") as archive:
            for i, name in enumerate(names):
                archive.writestr(f"00a1-b2c3/{name}", jpeg(128, 80, 50 + i))
    else:
        for name in names:
            write_image(folder / store / "00a1-b2c3" / name, 128, 80)
    frames = [
        {
            "name": names[0],
            "videoName": "00a1-b2c3",
            "frameIndex": 0,
            "labels": [scalabel_label(7, "motorcycle", (5, 6, 14, 25))],
        },
        {"name": names[1], "videoName": "00a1-b2c3", "frameIndex": 3, "labels": None},
    ]
    config = {"imageSize": {"height": 80, "width": 128}, "categories": [{"name": "car"}]}
    write_json(folder / "det_2d.json", {"frames": frames, "config": config})
    return root


# ACDC -----------------------------------------------------------------------------------------


def acdc(
    root: Path, *, split: str = "train", conditions: tuple[str, ...] = ("fog", "night")
) -> Path:
    """One image and two boxes per condition; ids and category ids start anew in each file."""
    for n, condition in enumerate(conditions):
        name = f"{condition}/{split}/GP01/GP01_frame_00000{n}_rgb_anon.png"
        write_image(root / "rgb_anon" / name, 96, 54)
        file = f"instancesonly_{condition}_{split}_gt_detection.json"
        write_json(
            root / "gt_detection" / condition / file,
            {
                "images": [{"id": 1, "file_name": name, "width": 96, "height": 54}],
                "categories": [
                    {"id": 24 + n, "name": "person"},
                    {"id": 26 + n, "name": "car"},
                    {"id": 90, "name": "sky"},
                ],
                "annotations": [
                    {
                        "id": 1,
                        "image_id": 1,
                        "category_id": 26 + n,
                        "bbox": [1.5, 2, 10, 20.25],
                        "area": 100.5,
                        "iscrowd": 0,
                        "segmentation": [],
                    },
                    {
                        "id": 2,
                        "image_id": 1,
                        "category_id": 24 + n,
                        "bbox": [50, 10, 20, 20],
                        "area": 400,
                        "iscrowd": 1,
                        "segmentation": [],
                    },
                ],
            },
        )
    return root
