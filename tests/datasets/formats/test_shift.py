"""The SHIFT reader."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.scalabel.shift import read
from relabel.datasets.pixels.location import load_rgb
from relabel.errors import DataError, Problems
from tests.builders import native
from tests.builders.datasets import edit_json

VIEW = "discrete/images/train/front"


def load(root: Path, problems: Problems | None = None, **options) -> DetectionDataset:
    options = {"name": "shift", "split": None} | options
    return read(root, problems=problems or Problems(), **options)


def check(dataset: DetectionDataset, prefix: str = f"{VIEW}/", view: str = "front") -> None:
    assert dataset.images.file_name == [
        f"{prefix}00a1-b2c3/0000000{i}_img_{view}.jpg" for i in (0, 3)
    ]
    assert dataset.images.width.tolist() == [128, 128]
    assert dataset.images.height.tolist() == [80, 80]
    # Pixels 5..14 and 6..25, both ends included.
    assert dataset.boxes.xyxy.tolist() == [[5, 6, 15, 26]]
    assert dataset.boxes.image.tolist() == [0]
    assert dataset.space.names[dataset.boxes.category[0]] == "motorcycle"
    assert load_rgb(dataset, 1).shape == (80, 128, 3)


def test_zipped_images_are_read_in_place(tmp_path: Path):
    check(load(native.shift(tmp_path)))
    assert not list(tmp_path.rglob("*.jpg"))


def test_a_folder_with_an_exclamation_mark(tmp_path: Path):
    dataset = load(native.shift(tmp_path / "100%! !here"))
    assert load_rgb(dataset, 0).shape == load_rgb(dataset, 1).shape


@pytest.mark.parametrize(("store", "inner"), [("img", "img/"), (".", "")])
def test_unpacked_images(tmp_path: Path, store: str, inner: str):
    check(load(native.shift(tmp_path, store=store)), f"{VIEW}/{inner}")


@pytest.mark.parametrize(
    ("part", "prefix"),
    [("discrete", "images/train/front/"), ("discrete/images", "train/front/"), (VIEW, "")],
)
def test_path_may_be_deeper(tmp_path: Path, part: str, prefix: str):
    check(load(native.shift(tmp_path) / part), prefix)


def test_other_views_and_splits(tmp_path: Path):
    native.shift(tmp_path, split="val", view="left_90")
    file = "discrete/images/val/left_90/det_2d.json"
    check(load(tmp_path, annotations=file), "discrete/images/val/left_90/", "left_90")
    with pytest.raises(DataError, match=r"front/det_2d\.json: file does not exist"):
        load(tmp_path, split="val")


def test_sizes_from_images_where_the_file_has_none(tmp_path: Path):
    for store in ("zip", "img"):
        root = native.shift(tmp_path / store, store=store)
        edit_json(root / VIEW / "det_2d.json", lambda c: c.update(config=None))
        dataset = load(root)
        assert dataset.images.height.tolist() == [80, 80]


def test_labels_alone(tmp_path: Path):
    file = native.shift(tmp_path) / VIEW / "det_2d.json"
    (file.parent / "img.zip").unlink()
    edit_json(file, lambda c: c.pop("config"))
    problems = Problems()
    dataset = load(tmp_path, problems)
    assert dataset.images.width.tolist() == [1280, 1280]
    assert dataset.images.height.tolist() == [800, 800]
    assert [p.severity for p in problems.found] == ["warning"]


def test_archive_with_a_leading_folder(tmp_path: Path):
    archive = native.shift(tmp_path) / VIEW / "img.zip"
    with zipfile.ZipFile(archive) as old:
        members = {n: old.read(n) for n in old.namelist()}
    with zipfile.ZipFile(archive, "w") as new:
        for name, data in members.items():
            new.writestr(f"front/{name}", data)
    check(load(tmp_path))


def frame(row: int, **values):
    def damage(view: Path) -> None:
        edit_json(view / "det_2d.json", lambda c: c["frames"][row].update(values))

    return damage


def cut_archive(view: Path) -> None:
    data = (view / "img.zip").read_bytes()
    (view / "img.zip").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (frame(1, name="00000009_img_front.jpg"), "img.zip, frame 00000009.*: holds no image"),
        (frame(1, videoName="../../.."), "leads out of the dataset's root"),
        (frame(1, name="00000000_img_front.jpg"), "appears twice"),
        (frame(1, size={"width": 0, "height": 80}), "size 0x80"),
        (frame(1, videoName=5), "frame 1 .*: Expected `str | null`, got `int`"),
    ],
)
def test_bad_frames(tmp_path: Path, damage, message: str):
    damage(native.shift(tmp_path) / VIEW)
    with pytest.raises(DataError, match=message):
        load(tmp_path)
    problems = Problems(skip_bad=True)
    dataset = load(tmp_path, problems)
    assert (len(problems.errors), len(dataset), len(dataset.boxes)) == (1, 1, 1)


def test_bad_files(tmp_path: Path):
    view = native.shift(tmp_path) / VIEW
    cut_archive(view)
    with pytest.raises(DataError, match=r"img\.zip: not a readable zip archive"):
        load(tmp_path)
    (view / "det_2d.json").write_text('{"frames": [')
    (view / "img.zip").unlink()
    with pytest.raises(DataError, match=r"det_2d\.json: not valid JSON"):
        load(tmp_path)
