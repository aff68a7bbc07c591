"""The BDD100K reader, and the Scalabel frames under it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.scalabel.bdd100k import read
from relabel.errors import DataError, Problems
from tests.builders import native
from tests.builders.datasets import edit_json, write_json

LABELS = "labels/det_20/det_train.json"
# Both end pixels belong to a box: 10..19 is ten wide. Fractions keep the same rule.
EXPECTED = [
    ("f0.jpg", "car", [10, 20, 20, 25], False),
    ("f0.jpg", "pedestrian", [30, 30, 31, 31], False),
    ("f0.jpg", "bicycle", [40, 40, 50.5, 51.25], False),
    ("f0.jpg", "pedestrian", [60, 10, 90, 30], True),
    ("f0.jpg", "other vehicle", [1, 1, 5, 5], True),
    ("f4.jpg", "car", [100, 60, 128, 72], False),
]


def load(root: Path, problems: Problems | None = None, **options) -> DetectionDataset:
    options = {"name": "bdd", "split": None} | options
    return read(root, problems=problems or Problems(), **options)


def rows(dataset: DetectionDataset) -> list[tuple[str, str, list[float], bool]]:
    boxes = dataset.boxes
    return [
        (Path(dataset.images.file_name[int(i)]).name, dataset.space.names[c], box.tolist(), bool(g))
        for i, c, box, g in zip(boxes.image, boxes.category, boxes.xyxy, boxes.ignore, strict=True)
    ]


def test_frames(tmp_path: Path):
    problems = Problems()
    dataset = load(native.bdd100k(tmp_path), problems)
    # Missing, null and empty label lists are images without objects.
    assert [Path(f).name for f in dataset.images.file_name] == [f"f{i}.jpg" for i in range(5)]
    assert dataset.image_path(0).is_file()
    assert dataset.images.width.tolist() == [128] * 5
    assert rows(dataset) == EXPECTED
    assert sorted(problems.counts.values()) == [1, 1]  # the lane, the clipped van
    assert dataset.boxes.extra is not None
    kept = {"attributes": {"occluded": True, "truncated": False}}
    assert json.loads(dataset.boxes.extra[0] or b"") == kept
    assert dataset.boxes.extra[1] is None


def test_label_file_as_path_and_in_the_older_place(tmp_path: Path):
    native.bdd100k(tmp_path / "a")
    assert rows(load(tmp_path / "a" / LABELS)) == EXPECTED
    native.bdd100k(tmp_path / "b/bdd100k", split="val")
    assert rows(load(tmp_path / "b", split="val")) == EXPECTED
    native.bdd100k(tmp_path / "c", file="labels/bdd100k_labels_images_{split}.json")
    assert rows(load(tmp_path / "c")) == EXPECTED
    native.bdd100k(tmp_path / "d", file="mine.json")
    assert rows(load(tmp_path / "d", annotations="mine.json")) == EXPECTED


def test_sizes_without_images(tmp_path: Path):
    frames = [
        {"name": "a.jpg", "labels": [native.scalabel_label(0, "car", (1270, 700, 1279, 719))]},
        {"name": "b.jpg", "size": {"width": 640, "height": 360}},
    ]
    write_json(tmp_path / LABELS, frames)
    problems = Problems()
    dataset = load(tmp_path, problems)
    assert dataset.images.width.tolist() == [1280, 640]
    assert dataset.images.height.tolist() == [720, 360]
    assert dataset.boxes.xyxy.tolist() == [[1270, 700, 1280, 720]]
    assert not problems.counts
    assert [p.severity for p in problems.found] == ["warning"]


def label(**values):
    return lambda frames: frames[0]["labels"][0].update(values)


def frame(row: int, **values):
    return lambda frames: frames[row].update(values)


def box(**values):
    return label(box2d={"x1": 1, "y1": 1, "x2": 5, "y2": 5} | values)


@pytest.mark.parametrize(
    ("change", "message", "images", "boxes"),
    [
        (label(category="spaceship"), "frame f0.jpg, label 0: unknown category", 5, 5),
        (label(category=None), "unknown category ''", 5, 5),
        (label(category=3), "frame 0 .f0.jpg., label 0: Expected `str | null`", 5, 5),
        (box(x1=float("nan")), "frame f0.jpg, label 0: bbox .* not finite", 5, 5),
        (box(y2=float("inf")), "not finite", 5, 5),
        (box(x2=-3), "negative size", 5, 5),
        (box(x2="5"), "Expected `float`, got `str`", 5, 5),
        (label(box2d={"x1": 1, "y1": 2, "x2": 3}), "required field `y2`", 5, 5),
        (label(box2d=[1, 2, 3, 4]), r"Expected `object \| null`, got `array`", 5, 5),
        (label(id="1"), "frame f0.jpg, label 1: label id '1' appears twice", 5, 5),
        (frame(0, labels={"a": 1}), r"frame 0 .f0.jpg.: Expected `array | null`", 4, 1),
        (frame(1, name="f0.jpg"), "'images/100k/train/f0.jpg' appears twice", 4, 6),
        (frame(1, name="../../f1.jpg"), "leads out of the dataset's root", 4, 6),
        (frame(1, name="absent.jpg"), "absent.jpg, frame absent.jpg: image file does not", 4, 6),
        (lambda frames: frames[1].pop("name"), "frame 1: Object missing required field", 4, 6),
        (lambda frames: frames.append(3), "frame 5: Expected `object`, got `int`", 5, 6),
    ],
)
def test_bad_records(tmp_path: Path, change, message: str, images: int, boxes: int):
    native.bdd100k(tmp_path)
    edit_json(tmp_path / LABELS, change)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value.file) and caught.value.remedy
    problems = Problems(skip_bad=True)
    dataset = load(tmp_path, problems)
    assert len(problems.errors) == 1
    assert (len(dataset), len(dataset.boxes)) == (images, boxes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (" \n", "file is empty"),
        ('[{"name": "f0.jpg", "labels": [{"id', "not valid JSON"),
        ('{"images": []}', "neither a list of frames nor"),
        ("7", "neither a list of frames nor"),
    ],
)
def test_bad_files(tmp_path: Path, content: str | None, message: str):
    file = native.bdd100k(tmp_path) / LABELS
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert caught.value.file == str(file)


def test_image_that_is_none(tmp_path: Path):
    (native.bdd100k(tmp_path) / "images/100k/train/f1.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"f1\.jpg, frame f1\.jpg: not an image"):
        load(tmp_path)
