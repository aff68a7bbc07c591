"""COCO files given with --extra."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.coco.read import read
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.datasets.pixels.location import load_rgb
from relabel.errors import ConfigError, DataError, Problems
from relabel.studies.downstream.extra import parse_extra, read_extra
from tests.builders.datasets import write_image

MakeSet = Callable[..., Path]
FINE = LabelSpace("fine", (Category(5, "car"), Category(2, "bus"), Category(9, "truck")))


def load(root: Path, name: str) -> DetectionDataset:
    return read(root / "train.json", name=name, split=None, problems=Problems())


def write(
    file: Path,
    boxes: list[dict[str, Any]],
    images: tuple[str, ...] = ("images/000.png", "images/001.png"),
    names: tuple[str, ...] = ("bus", "car"),
    size: tuple[int, int] = (64, 48),
) -> Path:
    annotations = [{"id": i + 1, "area": 4.0, "iscrowd": 0, **b} for i, b in enumerate(boxes)]
    content = {
        "images": [
            {"id": 30 + i, "file_name": n, "width": size[0], "height": size[1]}
            for i, n in enumerate(images)
        ],
        "categories": [{"id": 70 + k, "name": n} for k, n in enumerate(names)],
        "annotations": annotations,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


BOXES = [
    {"image_id": 31, "category_id": 70, "bbox": [1, 2, 3, 4]},
    {"image_id": 30, "category_id": 71, "bbox": [5, 6, 7, 8], "iscrowd": 1},
    {"image_id": 30, "category_id": 71, "bbox": [9, 9, 9, 9], "ignore": 1},
]


def test_categories_by_name_and_images_from_the_datasets(tmp_path: Path, coco_set: MakeSet) -> None:
    old = load(coco_set("old", ["thing"], 2), "old")
    file = write(tmp_path / "elsewhere" / "oracle.json", BOXES)
    found = read_extra("oracle", file, FINE, {"old": old})
    assert found.name == "oracle" and found.space == FINE
    assert found.boxes.category.tolist() == [0, 0, 1]  # car, car, bus, whatever their ids
    assert found.boxes.ignore.tolist() == [True, True, False]
    assert found.boxes.xywh.tolist() == [[5, 6, 7, 8], [9, 9, 9, 9], [1, 2, 3, 4]]
    for row in range(2):
        assert np.array_equal(load_rgb(found, row), load_rgb(old, row))


def test_images_beside_the_file_come_first(tmp_path: Path, coco_set: MakeSet) -> None:
    old = load(coco_set("old", ["thing"], 2), "old")
    file = write(tmp_path / "own" / "labels.json", BOXES)
    for i in range(2):
        write_image(tmp_path / f"own/images/00{i}.png", 64, 48, (i, 200, 0))
    found = read_extra("x", file, FINE, {"old": old})
    assert load_rgb(found, 1)[0, 0].tolist() == [1, 200, 0]


def test_images_by_the_last_part_of_their_name(tmp_path: Path, coco_set: MakeSet) -> None:
    old = load(coco_set("old", ["thing"], 2), "old")
    file = write(tmp_path / "f" / "x.json", BOXES, ("000.png", "photos/001.png"))
    found = read_extra("x", file, FINE, {"old": old})
    assert np.array_equal(load_rgb(found, 1), load_rgb(old, 1))


def test_numbered_frames_of_several_datasets(tmp_path: Path, coco_set: MakeSet) -> None:
    """The file is about the dataset that has most of its images."""
    one = load(coco_set("one", ["thing"], 1), "one")
    both = load(coco_set("both", ["thing"], 2), "both")
    file = write(tmp_path / "f" / "x.json", BOXES)
    found = read_extra("x", file, FINE, {"one": one, "both": both})
    assert np.array_equal(load_rgb(found, 0), load_rgb(both, 0))
    same = load(coco_set("same", ["thing"], 2), "same")
    with pytest.raises(DataError, match=r"x\.json.*images/000\.png.*'both'.*'same'.*beside"):
        read_extra("x", file, FINE, {"both": both, "same": same})


def test_errors(tmp_path: Path, coco_set: MakeSet) -> None:
    old = load(coco_set("old", ["thing"], 2), "old")
    images = {"old": old}
    file = write(tmp_path / "f" / "a.json", BOXES, names=("buss", "car"))
    with pytest.raises(
        DataError, match=r"a\.json, category 70: category 'buss' is not in.*'fine'.*'bus'"
    ):
        read_extra("x", file, FINE, images)
    # A category without boxes may be anything.
    file = write(tmp_path / "f" / "b.json", BOXES, names=("bus", "car", "tram"))
    assert len(read_extra("x", file, FINE, images).boxes) == 3
    file = write(tmp_path / "f" / "c.json", BOXES, ("images/000.png", "images/7.png"))
    with pytest.raises(
        DataError, match=r"c\.json: 1 of 2 images.*\(old\).*'images/7\.png'.*beside"
    ):
        read_extra("x", file, FINE, images)
    file = write(tmp_path / "f" / "d.json", BOXES, size=(640, 480))
    with pytest.raises(DataError, match=r"d\.json.*000\.png.*640x480.*64x48 in 'old'"):
        read_extra("x", file, FINE, images)
    with pytest.raises(DataError, match=r"e\.json.*holds no boxes"):
        read_extra("x", write(tmp_path / "f" / "e.json", []), FINE, images)


def test_test_images_are_refused(tmp_path: Path, coco_set: MakeSet) -> None:
    old = load(coco_set("old", ["thing"], 4), "old")
    file = write(tmp_path / "f" / "x.json", BOXES)
    test = old.subset([1, 3])
    with pytest.raises(DataError, match=r"1 of its images are test images.*images/001\.png"):
        read_extra("x", file, FINE, {"old": old}, test=test)
    assert len(read_extra("x", file, FINE, {"old": old}, test=old.subset([2, 3]))) == 2


def test_option(tmp_path: Path) -> None:
    file = tmp_path / "a=b.json"
    file.write_text("{}")
    assert parse_extra(f"oracle={file}") == ("oracle", file)
    for text, expected in (
        ("oracle", r"not NAME=FILE"),
        ("=x.json", r"not NAME=FILE"),
        ("oracle=", r"not NAME=FILE"),
        (f"lat={file}", r"an arm is called 'lat' already"),
        (f"a/b={file}", r"'a/b' is not usable"),
        (f"..={file}", r"'\.\.' is not usable"),
        (f"oracle={tmp_path}/none.json", r"none\.json: no such file.*--extra oracle"),
    ):
        with pytest.raises(ConfigError, match=expected):
            parse_extra(text)


def test_tollroad_oracle(shared: Path) -> None:
    root = shared / "data" / "tollroad"
    fine = read(root / "fine/train.json", name="fine", split=None, problems=Problems())
    coarse = read(root / "coarse/train.json", name="coarse", split=None, problems=Problems())
    found = read_extra(
        "oracle", root / "coarse/truth_in_fine.json", fine.space, {"coarse": coarse}, test=fine
    )
    assert (len(found), len(found.boxes)) == (386, 2901)
    assert found.space.class_names == fine.space.class_names
