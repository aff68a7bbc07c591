"""The Waymo v2 reader, and telling the two releases apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.formats.waymo import v2 as waymo_v2
from relabel.datasets.formats.waymo.v2 import read
from relabel.datasets.pixels.location import load_rgb
from relabel.errors import DataError, Problems
from tests.builders import waymo as native
from tests.builders.datasets import jpeg


def load(path: Path, problems: Problems | None = None, **options) -> DetectionDataset:
    options = {"name": "waymo", "split": None} | options
    return read(path, problems=problems or Problems(), **options)


def rows(dataset: DetectionDataset) -> list[tuple[int, str, list[float]]]:
    boxes = dataset.boxes
    return [
        (int(i), dataset.space.names[c], box.tolist())
        for i, c, box in zip(boxes.image, boxes.category, boxes.xyxy, strict=True)
    ]


C = native.WAYMO_CONTEXT
EXPECTED = [(0, "vehicle", [60, 50, 140, 70]), (0, "cyclist", [0, 35, 30, 65])]


@pytest.mark.parametrize("image_cameras", [[1, 4], ["1", "4"], ["FRONT", "SIDE_LEFT"]])
@pytest.mark.parametrize("box_cameras", [[1, 4], ["1", "4"], ["FRONT", "SIDE_LEFT"]])
def test_camera_names_of_any_type_join(tmp_path: Path, image_cameras: list, box_cameras: list):
    native.waymo_v2(tmp_path, image_cameras=image_cameras, box_cameras=box_cameras)
    problems = Problems()
    dataset = load(tmp_path, problems)
    # The second image has no boxes and is an image without objects.
    assert dataset.images.file_name == [f"{C}/1000_FRONT.jpg", f"{C}/1000_SIDE_LEFT.jpg"]
    assert dataset.images.width.tolist() == [192, 192]
    assert dataset.images.height.tolist() == [128, 88]
    assert rows(dataset) == EXPECTED
    assert sorted(problems.counts.values()) == [1, 1]  # one sign, one clipped
    assert load_rgb(dataset, 1).shape == (88, 192, 3)


@pytest.mark.parametrize(("place", "split"), [("training", "train"), ("val", "validation")])
def test_split_names_and_split_folder(tmp_path: Path, place: str, split: str):
    native.waymo_v2(tmp_path, split=place)
    assert rows(load(tmp_path, split=split)) == EXPECTED
    assert rows(load(tmp_path / place)) == EXPECTED
    with pytest.raises(DataError, match="no camera_box folder of split 'testing'"):
        load(tmp_path, split="testing")


def test_large_files_read_one_image_per_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    native.waymo_v2(tmp_path)
    monkeypatch.setattr(waymo_v2, "_READ_ALL_BYTES", 0)
    dataset = load(tmp_path)
    assert dataset.images.height.tolist() == [128, 88]
    assert rows(dataset) == EXPECTED


def test_releases_are_told_apart(tmp_path: Path):
    native.waymo_v2(tmp_path / "two")
    file = native.waymo_v1(tmp_path / "one/training")
    for path, images in ((tmp_path / "two", 2), (tmp_path / "one", 3), (file, 3)):
        assert len(read_dataset(path, "waymo")) == images
    with pytest.raises(DataError, match="neither Waymo TFRecord nor Parquet"):
        (tmp_path / "none").mkdir()
        read_dataset(tmp_path / "none", "waymo")


def part(root: Path, kind: str) -> Path:
    return root / "training" / kind / f"{C}.parquet"


def replace(kind: str, column: str, values: Any):
    """Write another column over one of the fixture's; None leaves it out."""

    def damage(root: Path) -> None:
        file = part(root, kind)
        table = pq.read_table(file)
        place = table.column_names.index(column)
        table = table.remove_column(place)
        if values is not None:
            table = table.add_column(place, column, pa.array(values))
        pq.write_table(table, file)

    return damage


def cut(kind: str):
    def damage(root: Path) -> None:
        data = part(root, kind).read_bytes()
        part(root, kind).write_bytes(data[: len(data) // 2])

    return damage


NAN = float("nan")
X, WIDTH = f"{native.BOX}.box.center.x", f"{native.BOX}.box.size.x"
TYPE, JPEG = f"{native.BOX}.type", "[CameraImageComponent].image"
TIME, CAMERA = "key.frame_timestamp_micros", "key.camera_name"
GOOD_JPEG = jpeg(192, 128)


@pytest.mark.parametrize(
    ("damage", "message", "images", "boxes"),
    [
        (replace("camera_box", X, [NAN, 10.0, 30.0]), "not finite", 2, 1),
        (replace("camera_box", X, [None, 10.0, 30.0]), "not finite", 2, 1),
        (replace("camera_box", WIDTH, [-80.0, 40.0, 10.0]), "negative size", 2, 1),
        (replace("camera_box", X, ["a", "b", "c"]), "holds string, expected numbers", 0, 0),
        (replace("camera_box", X, None), "has no column", 0, 0),
        (replace("camera_box", TYPE, [7, 4, 3]), "unknown type 7", 2, 1),
        (replace("camera_box", TIME, [1, 1000, 1000]), "row 0: box of image .*/1_FRONT", 2, 1),
        (replace("camera_box", CAMERA, ["TOP", "1", "1"]), "row 0: no image key.*'TOP'", 2, 1),
        (replace("camera_image", CAMERA, [1, 1]), "1000_FRONT.jpg' appears twice", 1, 2),
        (replace("camera_image", JPEG, [b"no", GOOD_JPEG]), "row 0: image cannot be dec", 1, 0),
        (replace("camera_image", JPEG, [None, GOOD_JPEG]), "row 0: holds no image bytes", 1, 0),
        (replace("camera_image", "key.segment_context_name", ["../x", C]), "leads out", 1, 0),
        (cut("camera_image"), "not a readable Parquet file", 0, 0),
        (cut("camera_box"), "not a readable Parquet file", 0, 0),
        (lambda r: part(r, "camera_box").write_bytes(b""), "file is empty", 0, 0),
        (lambda r: part(r, "camera_box").unlink(), "does not exist, but camera_image", 0, 0),
        (lambda r: part(r, "camera_image").unlink(), "does not exist, but camera_box", 0, 0),
    ],
)
def test_bad_input(tmp_path: Path, damage, message: str, images: int, boxes: int):
    damage(native.waymo_v2(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert str(caught.value.file).endswith(".parquet")
    problems = Problems(skip_bad=True)
    dataset = load(tmp_path, problems)
    assert problems.errors
    assert (len(dataset), len(dataset.boxes)) == (images, boxes)
