"""Cityscapes folders with gaps, leftovers and sizes that no image has."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.cityscapes import read
from relabel.errors import DataError, Problems
from tests.builders import native
from tests.builders.datasets import edit_json

TRUTH = "gtFine/train/aachen/aachen_000000_000019_gtFine_"


def load(root: Path, problems: Problems | None = None, **options) -> DetectionDataset:
    options = {"name": "city", "split": None} | options
    return read(root, problems=problems or Problems(), **options)


def png(width: int, height: int) -> bytes:
    """A 16-bit grey PNG that states a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


def make_polygons(root: Path, width: float, height: float) -> None:
    native.cityscapes(root, instances=False, images=False)
    edit_json(root / f"{TRUTH}polygons.json", lambda c: c.update(imgWidth=width, imgHeight=height))


def make_png(root: Path, width: int, height: int) -> None:
    native.cityscapes(root, images=False)
    (root / f"{TRUTH}instanceIds.png").write_bytes(png(width, height))


@pytest.mark.parametrize(
    ("make", "width", "height"),
    [
        (make_polygons, 32768, 32768),
        (make_polygons, 1 << 25, 1),
        (make_polygons, 10**300, 10**300),
        (make_polygons, -64, 32),
        (make_polygons, 0, 0),
        (make_png, 16000, 8000),  # below Pillow's own bound
        (make_png, 60000, 60000),
    ],
)
def test_stated_sizes_take_no_memory(tmp_path: Path, make, width, height):
    make(tmp_path, width, height)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"aachen.*(is not possible|cannot be decoded)"):
        load(tmp_path)
    problems = Problems(skip_bad=True)
    assert len(load(tmp_path, problems)) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(problems.errors) == 1
    assert peak < 50 << 20


@pytest.mark.parametrize("far", [1e7, -1e300, "outside"])
def test_coordinates_outside(tmp_path: Path, far):
    native.cityscapes(tmp_path, instances=False)
    if far == "outside":
        # A car that reaches out of the image is drawn as far as the image goes.
        polygon = [[-50, 4], [29, 4], [29, 500], [-50, 500]]
        edit_json(
            tmp_path / f"{TRUTH}polygons.json", lambda c: c["objects"][1].update(polygon=polygon)
        )
        boxes = load(tmp_path).boxes.xyxy.tolist()
        assert [0, 4, 30, 31] in boxes  # row 31 is out of the region
        return
    edit_json(
        tmp_path / f"{TRUTH}polygons.json",
        lambda c: c["objects"][1].update(polygon=[[0, 0], [far, 0], [9, 9]]),
    )
    with pytest.raises(DataError, match=r"object 1: polygon has .* far outside"):
        load(tmp_path)


def test_damaged_json(tmp_path: Path):
    native.cityscapes(tmp_path, instances=False)
    file = tmp_path / f"{TRUTH}polygons.json"
    text = file.read_bytes()
    deep = b'"deleted": ' + b"[" * 5000 + b"]" * 5000 + b", "
    for bad, what in (
        (text.replace(b'"label"', deep + b'"label"', 1), "nested too deeply|polygons"),
        (text.replace(b'"road"', b'"road", "label": "car"', 1), "the key 'label' appears twice"),
        (text.replace(b'"objects"', b'"objects": [], "objects"', 1), "the key 'objects' appears"),
        (text.replace(b'"road"', b'"r\xfcad"', 1), "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ):
        file.write_bytes(bad)
        with pytest.raises(DataError, match=what) as caught:
            load(tmp_path)
        assert caught.value.file == str(file)
    file.write_bytes(b"\xef\xbb\xbf" + text)
    assert len(load(tmp_path).boxes) == 12


def test_split_names(tmp_path: Path):
    native.cityscapes(tmp_path, split="val")
    assert len(load(tmp_path, split="validation")) == 2
    with pytest.raises(DataError, match=r"no gtFine/minival folder. Splits here: val"):
        load(tmp_path, split="minival")
    (tmp_path / "gtFine/val").rename(tmp_path / "gtFine/valid")
    dataset = load(tmp_path, split="val")
    assert dataset.image_path(0).is_file()


def test_hidden_linked_and_flat_files(tmp_path: Path):
    native.cityscapes(tmp_path)
    expected = load(tmp_path)
    for kind in ("gtFine", "leftImg8bit"):
        for file in list((tmp_path / kind).rglob("*.*")):
            file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
        city = tmp_path / kind / "train/bonn"
        city.rename(tmp_path / f"{kind}-bonn")
        city.symlink_to(tmp_path / f"{kind}-bonn")
    assert load(tmp_path).boxes.xyxy.tolist() == expected.boxes.xyxy.tolist()
    # All cities in one folder.
    for file in list(tmp_path.glob("*/train/*/*.*")):
        file.rename(file.parents[1] / file.name)
    flat = load(tmp_path)
    assert flat.images.file_name[0] == "leftImg8bit/train/aachen_000000_000019_leftImg8bit.png"
    assert flat.boxes.xyxy.tolist() == expected.boxes.xyxy.tolist()


def test_nothing_pairs(tmp_path: Path):
    native.cityscapes(tmp_path)
    for file in list((tmp_path / "leftImg8bit").rglob("*.png")):
        file.rename(file.with_name(f"x{file.name}"))
    with pytest.raises(DataError, match="0 of 2 images and 2 label files belong together"):
        load(tmp_path, Problems(skip_bad=True))


def test_what_is_no_file_is_refused(tmp_path: Path):
    native.cityscapes(tmp_path)
    for ending in ("instanceIds.png", "polygons.json"):
        file = tmp_path / f"{TRUTH}{ending}"
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(DataError, match=f"{ending}: is a pipe"):
            load(tmp_path)
        file.unlink()
