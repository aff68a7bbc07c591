"""Pixels in plain files, zip archives, larger files and Parquet cells."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from relabel.datasets.dataset import Images
from relabel.datasets.pixels.location import (
    containing_file,
    decode_rgb,
    image_size,
    load_rgb,
    read_image_bytes,
    relative_location,
    stored_bytes,
    zip_location,
)
from relabel.errors import DataError
from tests.builders.datasets import dataset_of, jpeg

ONE, TWO = jpeg(20, 10, 30), jpeg(12, 16, 200)


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """The image TWO at every kind of location; names hold the marks locations are made of."""
    folder = tmp_path / "a!b: c"
    folder.mkdir()
    (folder / "two.jpg").write_bytes(TWO)
    (folder / "record").write_bytes(b"head" + ONE + TWO + b"tail")
    table = pa.table({"[X].image": pa.array([ONE, ONE, ONE, TWO, ONE]), "n": range(5)})
    pq.write_table(table, folder / "t.parquet", row_group_size=2)
    return {
        "plain": f"{folder}/two.jpg",
        "bytes": f"bytes:{folder}/record!{4 + len(ONE)}!{len(TWO)}",
        "parquet": f"parquet:{folder}/t.parquet![X].image!3",
    }


def test_every_location_gives_the_bytes(places: dict[str, str]):
    for location in places.values():
        assert read_image_bytes(location) == TWO
        assert image_size(location) == (12, 16)


def test_zip_members(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "img.zip", "w") as archive:
        archive.writestr("s/two.jpg", TWO)
        archive.writestr("s/a!b.jpg", ONE)
    assert read_image_bytes(f"zip:{tmp_path}/img.zip!s/two.jpg") == TWO
    assert read_image_bytes(f"zip:{tmp_path}/img.zip!s/a!b.jpg") == ONE
    assert image_size(f"zip:{tmp_path}/img.zip!s/two.jpg") == (12, 16)


@pytest.mark.parametrize("folder", ["a!b", "a!b!", "100%", "%21!%25"])
@pytest.mark.parametrize("member", ["s/two.jpg", "!two.jpg", "a!b.jpg", "50%21.jpg"])
def test_zip_locations_are_unambiguous(tmp_path: Path, folder: str, member: str):
    file = tmp_path / folder / "img.zip"
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, TWO)
    location = zip_location(file, member)
    assert read_image_bytes(location) == TWO
    assert containing_file(location) == str(file)
    assert stored_bytes(location) == file.stat().st_size
    # From the root it reads the same wherever that is.
    moved = zip_location(f"/elsewhere/{folder}/img.zip", member)
    assert relative_location(location, str(tmp_path)) == relative_location(moved, "/elsewhere")


def test_threads_share_an_archive(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "img.zip", "w") as archive:
        for i in range(40):
            archive.writestr(f"{i}.jpg", jpeg(8 + i, 8))
    wrong: list[int] = []

    def work() -> None:
        for i in range(40):
            if image_size(f"zip:{tmp_path}/img.zip!{i}.jpg") != (8 + i, 8):
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("{root}/absent.jpg", "image file does not exist"),
        ("zip:{root}/absent.zip!a.jpg", "image file does not exist"),
        ("zip:{root}/img.zip!absent.jpg", "cannot be read from the archive"),
        ("zip:{root}/record!a.jpg", "cannot be read from the archive"),
        ("bytes:{root}/absent!0!5", "image file does not exist"),
        ("bytes:{root}/record!2!50", "ends 43 bytes before"),
        ("parquet:{root}/absent.parquet!x!0", "image file does not exist"),
        ("parquet:{root}/record!x!0", "not a readable Parquet file"),
        ("parquet:{root}/t.parquet!x!5", "has no row 5"),
    ],
)
def test_what_is_not_there(tmp_path: Path, location: str, message: str):
    (tmp_path / "record").write_bytes(b"123456789")
    with zipfile.ZipFile(tmp_path / "img.zip", "w") as archive:
        archive.writestr("one.jpg", ONE)
    pq.write_table(pa.table({"x": pa.array([ONE])}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message) as caught:
        read_image_bytes(location.format(root=tmp_path))
    assert str(tmp_path) in str(caught.value.file)


def test_decoding(tmp_path: Path):
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (decode_rgb((tmp_path / "a.png").read_bytes()) == pixels).all()
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    grey = decode_rgb((tmp_path / "grey.png").read_bytes())
    assert (grey == pixels[..., :1]).all() and grey.shape == (4, 5, 3)
    # The orientation is applied: one upright grid.
    turned = Image.new("RGB", (20, 10))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert decode_rgb((tmp_path / "turned.jpg").read_bytes()).shape == (20, 10, 3)
    deep = np.array([[0, 255, 256, 30000, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    grey = decode_rgb((tmp_path / "deep.png").read_bytes())
    assert grey.tolist() == [[[v, v, v] for v in (0, 0, 1, 117, 255)]]
    for bad in (b"", b"no image", ONE[: len(ONE) // 2]):
        with pytest.raises(DataError, match=r"x\.jpg: image cannot be decoded"):
            decode_rgb(bad, name="x.jpg")


def test_dataset_mixes_locations_and_files(tmp_path: Path):
    (tmp_path / "one.jpg").write_bytes(ONE)
    (tmp_path / "record").write_bytes(TWO)
    images = Images(
        id=np.array([1, 2]),
        file_name=["one.jpg", "logical.jpg"],
        width=np.array([20, 12]),
        height=np.array([10, 16]),
        location=["", f"bytes:{tmp_path}/record!0!{len(TWO)}"],
    )
    dataset = dataset_of("d", ["a"], images, root=tmp_path)
    assert load_rgb(dataset, 0).shape == (10, 20, 3)
    assert load_rgb(dataset, 1).shape == (16, 12, 3)
