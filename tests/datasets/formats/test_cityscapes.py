"""The Cityscapes reader, on scenes written from the format's description."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.cityscapes import read
from relabel.datasets.formats.cityscapes_maps import instance_boxes
from relabel.errors import DataError, Problems
from tests.builders import native
from tests.builders.datasets import edit_json, write_image

# Of native.CITY_SCENE: the car up to the person before it, the person behind the pole in one
# box, each group on its own, and a caravan.
BOXES = [
    ("person", [25, 2, 35, 16], False),
    ("person", [2, 20, 11, 26], False),
    ("car", [10, 4, 25, 12], False),
    ("caravan", [20, 28, 25, 31], True),
    ("car", [60, 0, 64, 4], True),
    ("car", [40, 18, 50, 28], True),
]


def load(root: Path, problems: Problems | None = None, **options) -> DetectionDataset:
    options = {"name": "city", "split": None} | options
    return read(root, problems=problems or Problems(), **options)


def rows(dataset: DetectionDataset, image: int = 0) -> list[tuple[str, list[float], bool]]:
    at = dataset.rows(image)
    boxes = dataset.boxes
    return [
        (dataset.space.names[c], box.tolist(), bool(i))
        for c, box, i in zip(boxes.category[at], boxes.xyxy[at], boxes.ignore[at], strict=True)
    ]


def test_instance_maps(tmp_path: Path):
    dataset = load(native.cityscapes(tmp_path))
    assert dataset.images.file_name == [
        "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        "leftImg8bit/train/bonn/bonn_000001_000004_leftImg8bit.png",
    ]
    assert dataset.image_path(0).is_file()
    assert dataset.images.id.tolist() == [1, 2]
    assert dataset.images.width.tolist() == [64, 64]
    assert dataset.images.height.tolist() == [32, 32]
    assert rows(dataset, 0) == BOXES
    assert rows(dataset, 1) == BOXES


def test_polygons_give_the_same_boxes(tmp_path: Path):
    assert rows(load(native.cityscapes(tmp_path, instances=False))) == BOXES


def test_instance_map_wins_over_polygons(tmp_path: Path):
    native.cityscapes(tmp_path)
    for file in tmp_path.rglob("*_polygons.json"):
        file.write_text("not JSON")
    assert rows(load(tmp_path)) == BOXES


def test_splits_and_coarse(tmp_path: Path):
    native.cityscapes(tmp_path, split="val", frames=("ulm_000002_000001",))
    assert len(load(tmp_path, split="val")) == 1
    with pytest.raises(DataError, match=r"no gtFine/train folder\. Splits here: val"):
        load(tmp_path)
    shutil.copytree(tmp_path / "gtFine", tmp_path / "gtCoarse")
    for file in (tmp_path / "gtCoarse").rglob("*.*"):
        file.rename(file.with_name(file.name.replace("gtFine", "gtCoarse")))
    assert rows(load(tmp_path, split="val", annotations="gtCoarse")) == BOXES


def test_annotations_without_images_are_read_with_a_warning(tmp_path: Path):
    problems = Problems()
    dataset = load(native.cityscapes(tmp_path, images=False), problems)
    assert rows(dataset) == BOXES
    assert [p.severity for p in problems.found] == ["warning"]


def test_boxes_equal_a_plain_search(tmp_path: Path):
    rng = np.random.default_rng(0)
    ids = rng.choice([7, 24000, 24001, 26000, 33999, 29000], size=(40, 60)).astype(np.uint16)
    ids[:, 5:20] = 7
    ids[rng.integers(0, 40), rng.integers(0, 60)] = 25007
    xyxy, label, group = instance_boxes(ids, Problems(), tmp_path)
    expected = []
    for value in sorted(set(ids[ids >= 24000].tolist())):
        y, x = np.nonzero(ids == value)
        expected.append((value // 1000, [x.min(), y.min(), x.max() + 1, y.max() + 1]))
    assert list(zip(label.tolist(), xyxy.tolist(), strict=True)) == expected
    assert not group.any()


def truncate(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


STEM = "aachen/aachen_000000_000019"
TRUTH = f"gtFine/train/{STEM}_gtFine_"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: truncate(r / f"{TRUTH}instanceIds.png"), "instanceIds.png: image cannot be de"),
        (lambda r: (r / f"{TRUTH}instanceIds.png").write_bytes(b""), "image cannot be decoded"),
        (lambda r: write_image(r / f"{TRUTH}instanceIds.png", 64, 32), "pixel mode RGB"),
        (
            lambda r: native.write_instance_ids(
                r / f"{TRUTH}instanceIds.png", np.zeros((32, 60), np.uint16)
            ),
            r"is 64x32, its annotation .* is 60x32",
        ),
        (
            lambda r: native.write_instance_ids(
                r / f"{TRUTH}instanceIds.png", np.full((32, 64), 255, np.uint16)
            ),
            "instance 255: instance id 255 belongs to no",
        ),
        (
            lambda r: [f.unlink() for f in (r / "gtFine/train/aachen").iterdir()],
            "has neither aachen_000000_000019_gtFine_instanceIds.png nor",
        ),
        (
            lambda r: (r / f"leftImg8bit/train/{STEM}_leftImg8bit.png").unlink(),
            "has no image leftImg8bit/train/aachen",
        ),
        (lambda r: truncate(r / f"leftImg8bit/train/{STEM}_leftImg8bit.png"), "image is cut off"),
        (lambda r: (r / f"leftImg8bit/train/{STEM}_leftImg8bit.png").write_bytes(b""), "not an im"),
    ],
)
def test_damaged_frames(tmp_path: Path, damage, message: str):
    damage(native.cityscapes(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert "aachen" in str(caught.value.file)
    problems = Problems(skip_bad=True)
    dataset = load(tmp_path, problems)
    assert len(problems.errors) == 1
    # A wrong id is one bad record of its image; all else costs the image.
    assert rows(dataset, len(dataset) - 1) == BOXES
    assert len(dataset) == (2 if "255" in message else 1)


def set_object(**values):
    return lambda content: content["objects"][1].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_object(label="spaceship"), "object 1: unknown label 'spaceship'"),
        (set_object(polygon=[[1, 2]]), "object 1: polygon has fewer than two"),
        (set_object(polygon=[[1, 2], [float("nan"), 3], [4, 4]]), "object 1: polygon has fewer"),
        (set_object(polygon=[[1, "2"], [3, 4]]), r"object 1: Expected `float`, got `str`"),
        (set_object(polygon=[[1, 2, 3], [3, 4, 5]]), "object 1: Expected `array` of length 2"),
    ],
)
def test_damaged_polygons(tmp_path: Path, change, message: str):
    native.cityscapes(tmp_path, instances=False)
    edit_json(tmp_path / f"{TRUTH}polygons.json", change)
    with pytest.raises(DataError, match=message):
        load(tmp_path)
    problems = Problems(skip_bad=True)
    dataset = load(tmp_path, problems)
    assert len(problems.errors) == 1
    # Without its car the frame keeps the other boxes.
    assert rows(dataset, 0) == [b for b in BOXES if b != BOXES[2]]
    assert rows(dataset, 1) == BOXES


def test_cut_off_polygons(tmp_path: Path):
    native.cityscapes(tmp_path, instances=False)
    truncate(tmp_path / f"{TRUTH}polygons.json")
    with pytest.raises(DataError, match=r"polygons\.json: not valid JSON"):
        load(tmp_path)
