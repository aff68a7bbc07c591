"""The ACDC reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.acdc import read
from relabel.errors import DataError, Problems
from tests.builders import native
from tests.builders.datasets import edit_json

FOG = "gt_detection/fog/instancesonly_fog_train_gt_detection.json"
FOG_IMAGE = "rgb_anon/fog/train/GP01/GP01_frame_000000_rgb_anon.png"
# The ids of `car` and `person` differ between the two files.
BOXES = [
    ("car", [1.5, 2, 10, 20.25], False),
    ("person", [50, 10, 20, 20], True),
]


def load(root: Path, problems: Problems | None = None, **options) -> DetectionDataset:
    options = {"name": "acdc", "split": None} | options
    return read(root, problems=problems or Problems(), **options)


def rows(dataset: DetectionDataset, image: int) -> list[tuple[str, list[float], bool]]:
    at, boxes = dataset.rows(image), dataset.boxes
    return [
        (dataset.space.names[c], box.tolist(), bool(i))
        for c, box, i in zip(boxes.category[at], boxes.xywh[at], boxes.ignore[at], strict=True)
    ]


def test_conditions_are_merged(tmp_path: Path):
    dataset = load(native.acdc(tmp_path))
    assert dataset.images.file_name[0] == FOG_IMAGE
    assert dataset.images.file_name[1].startswith("rgb_anon/night/train/")
    assert all(dataset.image_path(i).is_file() for i in range(2))
    assert rows(dataset, 0) == BOXES
    assert rows(dataset, 1) == BOXES
    # Both files count from 1, so ids are given anew.
    assert dataset.images.id.tolist() == [1, 2]
    assert dataset.boxes.id.tolist() == [1, 2, 3, 4]
    assert dataset.boxes.area.tolist() == [100.5, 400, 100.5, 400]


def test_unique_ids_survive(tmp_path: Path):
    native.acdc(tmp_path, conditions=("fog",))

    def change(content):
        content["images"][0]["id"] = 77
        for ann in content["annotations"]:
            ann["image_id"] = 77
            ann["id"] += 1000

    edit_json(tmp_path / FOG, change)
    dataset = load(tmp_path)
    assert dataset.images.id.tolist() == [77]
    assert dataset.boxes.id.tolist() == [1001, 1002]


@pytest.mark.parametrize(
    "name", [FOG_IMAGE, FOG_IMAGE.removeprefix("rgb_anon/"), FOG_IMAGE.rsplit("/", 1)[-1]]
)
def test_file_names_with_and_without_folders(tmp_path: Path, name: str):
    native.acdc(tmp_path, conditions=("fog",))
    edit_json(tmp_path / FOG, lambda c: c["images"][0].update(file_name=name))
    assert load(tmp_path).images.file_name == [FOG_IMAGE]


@pytest.mark.parametrize(
    "place",
    [
        "gt_detection/instancesonly_train_gt_detection.json",
        "gt_detection/instancesonly_fog_train_gt_detection.json",
        "gt_detection/fog/train/fog_train_gt_detection.json",
    ],
)
def test_other_places_of_the_labels(tmp_path: Path, place: str):
    native.acdc(tmp_path, conditions=("fog",))
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / FOG).rename(tmp_path / place)
    assert rows(load(tmp_path), 0) == BOXES
    (tmp_path / place).rename(tmp_path / "mine.json")
    assert rows(load(tmp_path, annotations="mine.json"), 0) == BOXES


def test_missing_labels_of_one_condition(tmp_path: Path):
    native.acdc(tmp_path)
    (tmp_path / FOG).unlink()
    with pytest.raises(DataError, match=r"fog_train_gt_detection\.json: file does not"):
        load(tmp_path)
    problems = Problems(skip_bad=True)
    assert len(load(tmp_path, problems)) == 1
    with pytest.raises(DataError, match="no labels of split 'val'"):
        load(tmp_path, split="val")


def test_annotations_of_one_id_are_renumbered(tmp_path: Path):
    native.acdc(tmp_path)
    content = json.loads((tmp_path / FOG).read_bytes())
    twice("annotations")(content)
    (tmp_path / FOG).write_text(json.dumps(content))
    problems = Problems()
    boxes = load(tmp_path, problems).boxes
    assert len(set(boxes.id.tolist())) == len(boxes) == 5
    assert "annotation id 1 appears twice" in problems.found[0].message


def part(key: str, row: int = 0, **values):
    return lambda content: content[key][row].update(values)


def twice(key: str):
    return lambda content: content[key].append(content[key][0])


@pytest.mark.parametrize(
    ("change", "message", "images", "boxes"),
    [
        (part("annotations", bbox=[1, float("nan"), 3, 4]), "annotation 1: .*not finite", 2, 3),
        (part("annotations", bbox=[1, 2, -3, 4]), "annotation 1: .*negative size", 2, 3),
        (part("annotations", bbox=[1, 2, 3]), "bbox: expected `array` of len", 2, 3),
        (part("annotations", bbox=[1, 2, 3, "4"]), "got `str`", 2, 3),
        (
            part("annotations", category_id=5),
            "category_id 5 is not in the file",
            2,
            3,
        ),
        (part("annotations", category_id=90), "category 'sky' is not in label space", 2, 3),
        (
            part("annotations", image_id=5),
            "belongs to image 5, which is not in",
            2,
            3,
        ),
        (
            part("categories", 1, name="spaceship"),
            "category 'spaceship' is not in label space",
            2,
            3,
        ),
        (twice("images"), "image id 1 appears twice", 2, 4),
        (twice("categories"), "category id 24 appears twice", 2, 4),
        (part("images", file_name="../a.png"), "leads out of the dataset's root", 1, 2),
        (part("images", file_name="a.png"), "image file 'a.png' does not exist", 1, 2),
        (part("images", width=0), "size 0x54", 1, 2),
        (lambda c: c.pop("images"), "has no list `images`", 1, 2),
    ],
)
def test_bad_records(tmp_path: Path, change, message: str, images: int, boxes: int):
    native.acdc(tmp_path)
    edit_json(tmp_path / FOG, change)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert caught.value.file == str(tmp_path / FOG) and caught.value.remedy
    problems = Problems(skip_bad=True)
    dataset = load(tmp_path, problems)
    assert len(problems.errors) == 1
    assert (len(dataset), len(dataset.boxes)) == (images, boxes)


def test_clipping_shrinks_the_area(tmp_path: Path):
    native.acdc(tmp_path, conditions=("fog",))
    edit_json(tmp_path / FOG, part("annotations", 1, bbox=[90, 10, 20, 20]))
    problems = Problems()
    dataset = load(tmp_path, problems)
    assert dataset.boxes.xywh[1].tolist() == [90, 10, 6, 20]
    assert dataset.boxes.area[1] == 120
    assert list(problems.counts.values()) == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "file is empty"), ('{"images": [', "not valid JSON"), ("[]", "not a COCO dataset")],
)
def test_bad_files(tmp_path: Path, content: str, message: str):
    native.acdc(tmp_path)
    (tmp_path / FOG).write_text(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path)
    assert json.loads((tmp_path / FOG.replace("fog", "night")).read_text())["images"]
