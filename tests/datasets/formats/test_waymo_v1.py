"""The Waymo v1 reader and the wire format under it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.waymo.protowire import WireError, fields, masked_crc32c
from relabel.datasets.formats.waymo.v1 import read
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
# Centre (100, 60), 80 along x and 20 along y; the cyclist reached to x = -10.
EXPECTED = [
    (0, "vehicle", [60, 50, 140, 70]),
    (0, "cyclist", [0, 35, 30, 65]),
    (0, "pedestrian", [46.5, 95.5, 53.5, 104.5]),
    (2, "vehicle", [16, 37, 24, 43]),
]


def test_checksum_of_the_published_check_string():
    # Masking as published: rotate right by 15 bits and add a constant.
    assert masked_crc32c(b"123456789") == _masked(0xE3069283)
    assert masked_crc32c(bytes(32)) == _masked(0x8A9136AA)
    # Pieces of a larger buffer, longer than is passed on at once.
    data = bytes(range(256)) * 1100
    whole = native.bitwise_crc32c(data[:2000])
    assert masked_crc32c(data, 0, 2000) == _masked(whole)
    assert masked_crc32c(b"xx" + data, 2, 2 + len(data)) == masked_crc32c(data)


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_fields_are_located_not_copied():
    data = b"xx" + native.number(1, 300) + native.chunk(16, b"abc") + native.fixed64(2, 1.5)
    found = list(fields(data, 2, len(data)))
    assert [(n, w) for n, w, _, _ in found] == [(1, 0), (16, 2), (2, 1)]
    assert found[0][2] == 300
    assert data[found[1][2] : found[1][3]] == b"abc"
    for cut in (len(data) - 1, 4, 7):
        with pytest.raises(WireError):
            list(fields(data, 2, cut))


@pytest.mark.parametrize("place", [".", "training", "train"])
def test_frames(tmp_path: Path, place: str):
    file = native.waymo_v1(tmp_path / place)
    problems = Problems()
    dataset = load(tmp_path, problems, split=None if place == "." else "train")
    assert dataset.images.file_name == [
        f"{C}/1000_FRONT.jpg",
        f"{C}/1000_SIDE_LEFT.jpg",
        f"{C}/2000_SIDE_RIGHT.jpg",
    ]
    assert dataset.images.width.tolist() == [192, 192, 192]
    assert dataset.images.height.tolist() == [128, 88, 88]
    assert rows(dataset) == EXPECTED
    assert sorted(problems.counts.values()) == [1, 1]  # one sign, one clipped
    assert dataset.boxes.extra is not None
    levels = [json.loads(e or b"")["attributes"]["difficulty_level"] for e in dataset.boxes.extra]
    assert levels == [1, 2, 1, 1]
    # The pixels are read from inside the record.
    assert load_rgb(dataset, 0).shape == (128, 192, 3)
    assert abs(int(load_rgb(dataset, 2)[0, 0, 0]) - 10) < 6
    assert rows(load(file)) == EXPECTED
    with pytest.raises(DataError, match="tfrecord files of split 'nowhere'"):
        load(tmp_path, split="nowhere")


def test_frames_without_labels_are_kept_and_told(tmp_path: Path):
    file = tmp_path / "a.tfrecord"
    frame = native.waymo_frame(C, 5, [(1, jpeg(64, 32))], [])
    file.write_bytes(native.tfrecord([frame]))
    problems = Problems()
    dataset = load(file, problems)
    assert (len(dataset), len(dataset.boxes)) == (1, 0)
    assert "1 frames have no camera labels" in problems.found[0].message


@pytest.mark.parametrize("keep", [5, 11, 12, 500, -1, -5])
def test_cut_off_files_name_the_offset(tmp_path: Path, keep: int):
    file = native.waymo_v1(tmp_path)
    first = len(native.tfrecord(native.waymo_v1_frames()[:1]))
    data = file.read_bytes()
    file.write_bytes(data[:keep] if keep < 0 else data[: first + keep])
    with pytest.raises(DataError, match=f"record 1: cut off: the record at offset {first}") as e:
        load(tmp_path)
    assert e.value.file == str(file)
    problems = Problems(skip_bad=True)
    dataset = load(tmp_path, problems)
    # The whole frame before the cut is kept.
    assert rows(dataset) == EXPECTED[:3]
    assert len(problems.errors) == 1


def test_length_checksum(tmp_path: Path):
    file = native.waymo_v1(tmp_path)
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="length at offset 0 does not match its checksum"):
        load(tmp_path)


def test_payload_checksum(tmp_path: Path):
    file = native.waymo_v1(tmp_path)
    data = bytearray(file.read_bytes())
    # The first byte of a box's number: nothing but the checksum tells that it is another box.
    data[data.index(struct.pack("<d", 60.0))] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"record 0: the .* bytes from offset 12 do not match"):
        load(tmp_path)
    problems = Problems(skip_bad=True)
    assert rows(load(tmp_path, problems)) == [(0, "vehicle", [16, 37, 24, 43])]
    assert len(problems.errors) == 1


def test_empty_missing_and_foreign_files(tmp_path: Path):
    with pytest.raises(DataError, match=r"holds no \*.tfrecord files"):
        load(tmp_path)
    (tmp_path / "a.tfrecord").write_bytes(b"")
    with pytest.raises(DataError, match="file is empty"):
        load(tmp_path)
    (tmp_path / "a.tfrecord").write_bytes(native.tfrecord([b"\x0f\xff\xff"]))
    with pytest.raises(DataError, match="record 0: not a Waymo frame"):
        load(tmp_path)


GOOD = native.waymo_label(20, 10, 8, 6, 1)
IMAGE = jpeg(64, 32)


def frame(labels: list[bytes], **options) -> bytes:
    values = {"context": "c", "timestamp": 7, "images": [(1, IMAGE)], "labels": [(1, labels)]}
    return native.waymo_frame(**(values | options))


@pytest.mark.parametrize(
    ("bad", "message", "images", "boxes"),
    [
        (frame([native.waymo_label(float("nan"), 1, 2, 2, 1), GOOD]), "not finite", 2, 2),
        (frame([native.waymo_label(9, 9, -2, 2, 1), GOOD]), "negative size", 2, 2),
        (frame([native.waymo_label(9, 9, float("inf"), 2, 1), GOOD]), "not finite", 2, 2),
        (frame([native.waymo_label(9, 9, 2, 2, 9), GOOD]), "unknown type 9", 2, 2),
        (frame([native.waymo_label(9, 9, 2, 2, 2**64 - 1), GOOD]), "unknown type -1", 2, 2),
        (frame([native.waymo_label(9, 9, 2, 2, 2**63 - 1), GOOD]), "unknown type 9223", 2, 2),
        (frame([GOOD], timestamp=2**64 - 1), "lacks a context name or a timestamp", 1, 1),
        # A box without extents.
        (frame([native.chunk(1, native.fixed64(1, 4.0)) + native.number(3, 1)]), "finite", 2, 1),
        # A centre that is a varint.
        (frame([native.chunk(1, native.number(1, 4))]), "wire type 0, expected 1", 1, 1),
        (frame([GOOD], images=[(2, IMAGE)]), "labels of camera 1, whose image", 2, 1),
        (frame([GOOD], images=[(1, b"no")]), "record 1, camera 1: image cannot be dec", 1, 1),
        (frame([GOOD], images=[(1, IMAGE), (9, IMAGE)]), "unknown camera 9", 2, 2),
        (frame([GOOD], timestamp=6), "image 'c/6_FRONT.jpg' appears twice", 1, 1),
        (frame([GOOD], context="../up"), "leads out of the dataset's root", 1, 1),
        (frame([GOOD], context=""), "lacks a context name", 1, 1),
    ],
)
def test_bad_records(tmp_path: Path, bad: bytes, message: str, images: int, boxes: int):
    file = tmp_path / "a.tfrecord"
    file.write_bytes(native.tfrecord([frame([GOOD], timestamp=6), bad]))
    with pytest.raises(DataError, match=message) as caught:
        load(file)
    assert caught.value.file == str(file)
    problems = Problems(skip_bad=True)
    dataset = load(file, problems)
    assert len(problems.errors) == 1
    assert (len(dataset), len(dataset.boxes)) == (images, boxes)


def test_payload_larger_than_the_file(tmp_path: Path):
    length = struct.pack("<Q", 1 << 40)
    file = tmp_path / "a.tfrecord"
    file.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"abc")
    with pytest.raises(DataError, match="cut off"):
        load(file)
