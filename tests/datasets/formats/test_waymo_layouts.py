"""Waymo folders as they are extracted, and Parquet files that hold more than they seem to."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.pixels.location import load_rgb
from relabel.errors import DataError, Problems
from relabel.files import parquet
from tests.builders import waymo as native
from tests.builders.datasets import jpeg

C = native.WAYMO_CONTEXT
KINDS = {"waymo_v1": native.waymo_v1, "waymo_v2": native.waymo_v2}


def load(
    root: Path, format: str, problems: Problems | None = None, **options: Any
) -> DetectionDataset:
    return read_dataset(root, format, problems=problems or Problems(), **options)


@pytest.mark.parametrize("format", KINDS)
def test_split_names(tmp_path: Path, format: str):
    native.waymo_v1(tmp_path / "waymo_v1/val")
    native.waymo_v2(tmp_path / "waymo_v2", split="val")
    root = tmp_path / format
    for split in ("val", "validation", "Valid"):
        assert len(load(root, format, split=split)) == len(load(root / "val", format, split=split))
    for split in (None, "train", "testing"):
        with pytest.raises(DataError, match=r"of split '.*'\. Splits here: val"):
            load(root, format, split=split)
    # A folder that says which split it is is not taken for another.
    with pytest.raises(DataError, match="of split 'train'"):
        load(root / "val", format, split="train")


def test_folders_of_archives_and_hidden_files(tmp_path: Path):
    file = native.waymo_v1(tmp_path / "training/training_0000")
    expected = load(file, "waymo_v1").boxes.xyxy.tolist()
    for name in (f"._{file.name}", ".tmp-3-a.tfrecord"):
        file.with_name(name).write_bytes(b"\0\5\x16\7")
    for root in (tmp_path, tmp_path / "training", file.parent):
        assert load(root, "waymo_v1").boxes.xyxy.tolist() == expected
    native.waymo_v2(tmp_path / "two")
    for part in ("camera_box", "camera_image"):
        (tmp_path / "two/training" / part / f"._{C}.parquet").write_bytes(b"\0\5\x16\7")
    assert len(load(tmp_path / "two", "waymo_v2")) == 2


@pytest.mark.parametrize("format", KINDS)
def test_what_is_no_file_is_refused(tmp_path: Path, format: str):
    KINDS[format](tmp_path)
    for file in [p for p in tmp_path.rglob("*.*") if p.suffix in (".tfrecord", ".parquet")]:
        file.unlink()
        os.mkfifo(file)
    with pytest.raises(DataError, match="is a pipe"):
        load(tmp_path, format)


def test_a_jpeg_of_unlikely_size_is_refused_where_it_is_decoded(tmp_path: Path):
    data = bytearray(jpeg(64, 32))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = b"\xff\xdc\xff\xdc"  # 65500 x 65500
    frame = native.waymo_frame("c", 7, [(1, bytes(data))], [(1, [])])
    (tmp_path / "a.tfrecord").write_bytes(native.tfrecord([frame]))
    dataset = load(tmp_path, "waymo_v1")
    assert dataset.images.width.tolist() == [65500]
    with pytest.raises(DataError, match="image has 65500x65500 pixels"):
        load_rgb(dataset, 0)


def images(root: Path, columns: dict[str, Any], **options: Any) -> None:
    file = root / "training/camera_image" / f"{C}.parquet"
    pq.write_table(pa.table(columns), file, **options)


@pytest.mark.parametrize("column", ["context", "image"])
def test_repeated_values_are_held_once(tmp_path: Path, column: str, monkeypatch):
    """A text or an image of megabytes that thousands of rows repeat takes megabytes on disk."""
    native.waymo_v2(tmp_path)
    monkeypatch.setattr(parquet, "_MOST_REPEATED", 1 << 20)
    rows, size = 400, 1 << 20
    image = jpeg(64, 32)
    image += b"\0" * (size if column == "image" else 0)
    context = C + ("x" * size if column == "context" else "")
    columns = {
        "key.segment_context_name": pa.array([0] * rows).dictionary_encode(),
        "key.frame_timestamp_micros": pa.array(np.arange(rows)),
        "key.camera_name": pa.array([1] * rows),
        "[CameraImageComponent].image": pa.array([0] * rows).dictionary_encode(),
    }
    indices = pa.array(np.zeros(rows, np.int32))
    columns["key.segment_context_name"] = pa.DictionaryArray.from_arrays(indices, [context])
    columns["[CameraImageComponent].image"] = pa.DictionaryArray.from_arrays(
        indices, pa.array([image])
    )
    images(tmp_path, columns, dictionary_pagesize_limit=1 << 30)
    tracemalloc.start()
    dataset = load(tmp_path, "waymo_v2", Problems(skip_bad=True))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(dataset) == (rows if column == "image" else 0)  # no name is that long
    assert peak < 40 * size


def test_row_groups_that_say_too_much(tmp_path: Path, monkeypatch):
    native.waymo_v2(tmp_path)
    monkeypatch.setattr(parquet, "_MOST_GROUP_ROWS", 0)
    with pytest.raises(DataError, match="row group 0 says it holds 1 values"):
        load(tmp_path, "waymo_v2")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("key.camera_name", [[1], [4]]),
        ("key.camera_name", [{"a": 1}, {"a": 2}]),
        ("key.camera_name", [None, None]),
        ("key.frame_timestamp_micros", ["1000", "1000"]),
        ("key.segment_context_name", [[C], [C]]),
        ("key.segment_context_name", ["\0", C]),
        ("[CameraImageComponent].image", ["text", "text"]),
        ("[CameraImageComponent].image", [[b"x"], [b"y"]]),
        ("[CameraImageComponent].image", [1, 2]),
    ],
)
def test_columns_of_other_types(tmp_path: Path, column: str, values: list):
    native.waymo_v2(tmp_path)
    file = tmp_path / "training/camera_image" / f"{C}.parquet"
    table = pq.read_table(file)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values)), file)
    with pytest.raises(DataError) as caught:
        load(tmp_path, "waymo_v2")
    assert str(tmp_path) in str(caught.value.file)
    load(tmp_path, "waymo_v2", Problems(skip_bad=True))


def test_a_column_twice(tmp_path: Path):
    native.waymo_v2(tmp_path)
    file = tmp_path / "training/camera_box" / f"{C}.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column(table.column_names[4], table.column(4)), file)
    with pytest.raises(DataError, match=r"has the column .* twice"):
        load(tmp_path, "waymo_v2")


@pytest.mark.parametrize("value", [1e30, -1e30, 2.5, float("inf"), float("nan")])
def test_types_that_are_no_small_number(tmp_path: Path, value: float):
    native.waymo_v2(tmp_path)
    file = tmp_path / "training/camera_box" / f"{C}.parquet"
    table = pq.read_table(file)
    place = table.column_names.index("[CameraBoxComponent].type")
    table = table.set_column(place, table.column_names[place], pa.array([value, 1.0, 1.0]))
    pq.write_table(table, file)
    with pytest.raises(DataError, match="unknown type -1"):
        load(tmp_path, "waymo_v2")


def test_a_flipped_bit_of_a_page_with_a_checksum(tmp_path: Path):
    native.waymo_v2(tmp_path)
    file = tmp_path / "training/camera_box" / f"{C}.parquet"
    plain: Any = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pq.read_table(file), file, write_page_checksum=True, **plain)
    data = bytearray(file.read_bytes())
    place = data.index(np.array([80.0]).tobytes())  # the width of a box
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"camera_box/.*not a readable Parquet file"):
        load(tmp_path, "waymo_v2")
    assert len(load(tmp_path, "waymo_v2", Problems(skip_bad=True))) == 0
