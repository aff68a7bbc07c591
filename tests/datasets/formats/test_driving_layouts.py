"""BDD100K, SHIFT, nuImages and ACDC with gaps, leftovers, names of Windows and damaged archives."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.registry import read_dataset
from relabel.errors import DataError, Problems
from tests.builders import native
from tests.builders.datasets import edit_json, write_image

VIEW = "discrete/images/train/front"
BDD = "labels/det_20/det_train.json"
FOG = "gt_detection/fog/instancesonly_fog_train_gt_detection.json"
FOG_IMAGE = "rgb_anon/fog/train/GP01/GP01_frame_000000_rgb_anon.png"


def load(
    root: Path, format: str, problems: Problems | None = None, **options: Any
) -> DetectionDataset:
    return read_dataset(root, format, problems=problems or Problems(), **options)


def told(root: Path, format: str, **options: Any) -> str:
    problems = Problems(**options)
    load(root, format, problems)
    return " | ".join(p.message for p in problems.found)


@pytest.mark.parametrize("format", ["bdd100k", "shift", "nuimages", "acdc"])
def test_split_names(tmp_path: Path, format: str):
    make = getattr(native, format)
    make(tmp_path, **({"version": "v1.0-val"} if format == "nuimages" else {"split": "val"}))
    expected = len(load(tmp_path, format, split="val"))
    assert len(load(tmp_path, format, split="validation")) == expected > 0
    with pytest.raises(DataError, match="split 'minival'") as caught:
        load(tmp_path, format, split="minival")
    assert "val" in str(caught.value.remedy)
    if format != "nuimages":  # which takes the only one there is
        with pytest.raises(DataError, match="split 'train'"):
            load(tmp_path, format)


@pytest.mark.parametrize("format", ["bdd100k", "shift", "acdc"])
def test_healthy_sets_have_no_warning(tmp_path: Path, format: str):
    assert told(getattr(native, format)(tmp_path), format) == ""


def test_images_that_no_frame_is_about(tmp_path: Path):
    native.bdd100k(tmp_path / "bdd")
    for name in ("g7.jpg", "._f1.jpg"):
        write_image(tmp_path / "bdd/images/100k/train/x.jpg", 8, 8).rename(
            tmp_path / f"bdd/images/100k/train/{name}"
        )
    text = told(tmp_path / "bdd", "bdd100k")
    assert text == "1 of 6 images have no label file and are left out (image g7.jpg)"
    for store in ("zip", "img"):
        native.shift(tmp_path / store, store=store)
        edit_json(tmp_path / store / VIEW / "det_2d.json", lambda c: c["frames"].pop())
        assert "1 of 2 images have no label file and are left out" in told(
            tmp_path / store, "shift"
        )
    native.acdc(tmp_path / "acdc")
    other = "rgb_anon/fog/train/GP01/GP01_frame_000009_rgb_anon.png"
    write_image(tmp_path / "acdc" / other, 96, 54)
    assert f"left out (image {other})" in told(tmp_path / "acdc", "acdc")


@pytest.mark.parametrize("format", ["bdd100k", "shift", "acdc", "nuimages"])
def test_nothing_pairs(tmp_path: Path, format: str):
    getattr(native, format)(tmp_path, **({"store": "img"} if format == "shift" else {}))
    if format == "nuimages":
        write_image(tmp_path / "samples/CAM_FRONT/other.jpg", 16, 9)
    for file in [*tmp_path.rglob("*.jpg"), *tmp_path.rglob("*.png")]:
        file.rename(file.with_name(f"x{file.name}"))
    with pytest.raises(DataError, match=r"belong together|holds none of the 2 images"):
        load(tmp_path, format, Problems(skip_bad=True))


def test_samples_of_nuimages(tmp_path: Path):
    native.nuimages(tmp_path)
    assert told(tmp_path, "nuimages") == "no samples folder: labels are read without images"
    write_image(tmp_path / "samples/CAM_FRONT/a.jpg", 16, 9)
    assert "1 of 2 images of the tables are not there; the first is samples/CAM_BACK" in told(
        tmp_path, "nuimages"
    )
    write_image(tmp_path / "samples/CAM_BACK/c.jpg", 16, 9)
    assert told(tmp_path, "nuimages") == ""


def test_names_of_windows(tmp_path: Path):
    native.bdd100k(tmp_path / "bdd")
    folder = tmp_path / "bdd/images/100k/train"
    (folder / "a").mkdir()
    (folder / "f1.jpg").rename(folder / "a/f1.jpg")
    edit_json(tmp_path / "bdd" / BDD, lambda frames: frames[1].update(name="a\\f1.jpg"))
    assert "images/100k/train/a/f1.jpg" in load(tmp_path / "bdd", "bdd100k").images.file_name
    native.acdc(tmp_path / "acdc", conditions=("fog",))
    name = FOG_IMAGE.removeprefix("rgb_anon/").replace("/", "\\")
    edit_json(tmp_path / "acdc" / FOG, lambda c: c["images"][0].update(file_name=name))
    assert load(tmp_path / "acdc", "acdc").images.file_name == [FOG_IMAGE]
    archive = native.shift(tmp_path / "shift") / VIEW / "img.zip"
    repack(archive, lambda name: name.replace("/", "\\"))
    dataset = load(tmp_path / "shift", "shift")
    assert len(dataset) == 2


def test_one_name_in_two_conditions(tmp_path: Path):
    native.acdc(tmp_path)
    name = FOG_IMAGE.rsplit("/", 1)[-1]
    night = tmp_path / "rgb_anon/night/train/GP01" / name
    write_image(night, 96, 54)
    edit_json(tmp_path / FOG, lambda c: c["images"][0].update(file_name=name))
    assert load(tmp_path, "acdc").images.file_name[0] == FOG_IMAGE
    (tmp_path / FOG).rename(tmp_path / "mine.json")
    with pytest.raises(DataError, match=r"mine\.json, image 1: .* may be rgb_anon/fog"):
        load(tmp_path, "acdc", annotations="mine.json")


def repack(archive: Path, rename: Any, *, more: dict[str, bytes] | None = None) -> None:
    with zipfile.ZipFile(archive) as old:
        members = {n: old.read(n) for n in old.namelist()}
    with zipfile.ZipFile(archive, "w") as new:
        for name, data in [*((rename(n), d) for n, d in members.items()), *(more or {}).items()]:
            info = zipfile.ZipInfo("x")
            info.filename = name
            new.writestr(info, data)


def set_flag(archive: Path, bit: int) -> None:
    """Set a bit of every member's flags, in the local and in the central headers."""
    data = bytearray(archive.read_bytes())
    for mark, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        place = data.find(mark)
        while place >= 0:
            data[place + at] |= bit
            place = data.find(mark, place + 4)
    archive.write_bytes(data)


def test_archives(tmp_path: Path):
    archive = native.shift(tmp_path) / VIEW / "img.zip"
    whole = archive.read_bytes()
    leftovers = {"__MACOSX/00a1-b2c3/._x.jpg": b"", "00a1-b2c3/.DS_Store": b"", "note.txt": b""}
    repack(archive, lambda name: f"../../{name}", more=leftovers)
    assert told(tmp_path, "shift") == ""
    # Two members that both may be the image.
    first = "00a1-b2c3/00000000_img_front.jpg"
    repack(archive, lambda name: name, more={f"again/{first}": b"other"})
    with pytest.raises(DataError, match=rf"holds 2 images '{first}'"):
        load(tmp_path, "shift")
    archive.write_bytes(whole)
    set_flag(archive, 1)
    with pytest.raises(DataError, match=rf"img\.zip, frame .*: image '{first}' is encrypted"):
        load(tmp_path, "shift")
    with pytest.raises(DataError, match=r"0 of 0 images and 2 label files|0 of 2 images"):
        load(tmp_path, "shift", Problems(skip_bad=True))
    for bad in (b"", b"PK", whole[: len(whole) // 2], whole[:-10]):
        archive.write_bytes(bad)
        with pytest.raises(DataError, match=r"img\.zip: not a readable zip"):
            load(tmp_path, "shift")
    archive.unlink()
    os.mkfifo(archive)
    with pytest.raises(DataError, match=r"img\.zip: is a pipe"):
        load(tmp_path, "shift")


def test_a_view_of_another_split(tmp_path: Path):
    native.shift(tmp_path, split="val")
    view = tmp_path / "discrete/images/val/front"
    assert len(load(view, "shift")) == len(load(view, "shift", split="valid")) == 2
    with pytest.raises(DataError, match="is of split 'val', not 'train'"):
        load(view, "shift", split="train")


LATIN = "ü".encode("latin-1")


@pytest.mark.parametrize(
    ("format", "name"),
    [("bdd100k", BDD), ("shift", f"{VIEW}/det_2d.json"), ("acdc", FOG)]
    + [
        ("nuimages", f"v1.0-train/{t}.json")
        for t in ("sample", "sample_data", "object_ann", "category", "attribute")
    ],
)
def test_damaged_json(tmp_path: Path, format: str, name: str):
    file = getattr(native, format)(tmp_path) / name
    text = file.read_bytes()
    assert told(tmp_path, format) == told(
        tmp_path, format
    )  # reads at all; nuImages has no samples here
    key = b'"token"' if format == "nuimages" else b'"name"' if format == "bdd100k" else b'"images"'
    key = b'"frames"' if format == "shift" else key
    for bad in (
        text.replace(key, key + b": [], " + key, 1),  # a key twice
        text.replace(b'": "', b'": "' + LATIN, 1),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        text[:-9],
        b"\xff\xfe" + text.decode().encode("utf-16-le"),
        b"null",
        b"[[1, 2], 3]",
        b'{"frames": {"0": 1}}',
        b"version https://git-lfs.github.com/spec/v1\n",
    ):
        file.write_bytes(bad)
        with pytest.raises(DataError) as caught:
            load(tmp_path, format)
        assert caught.value.file == str(file), bad[:50]
    file.write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert len(load(tmp_path, format))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match="is a pipe"):
        load(tmp_path, format)


def test_numbers_and_texts_without_end(tmp_path: Path):
    native.bdd100k(tmp_path)
    whole = json.loads((tmp_path / BDD).read_bytes())

    whole[0]["labels"][0]["attributes"]["occluded"] = "\ud800"
    (tmp_path / BDD).write_text(json.dumps(whole))
    with pytest.raises(DataError, match=r"frame f0.jpg, label 0: attributes cannot be kept"):
        load(tmp_path, "bdd100k")
    problems = Problems(skip_bad=True)
    dataset = load(tmp_path, "bdd100k", problems)
    assert (len(problems.errors), len(dataset), len(dataset.boxes)) == (1, 5, 5)
    shutil.rmtree(tmp_path / "images")
    for size in (10**300, -1, 2**31, 12.5, 0):
        content = [{"name": "a.jpg", "size": {"width": size, "height": 40}}, {"name": "b.jpg"}]
        (tmp_path / BDD).write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"frame a.jpg: image size .*x40 is not possible"):
            load(tmp_path, "bdd100k")
    (tmp_path / BDD).write_text('[{"name": "a.jpg", "size": {"width": 64.0, "height": 40}}]')
    assert load(tmp_path, "bdd100k").images.width.tolist() == [64]
