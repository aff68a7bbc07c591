"""VOC folders as people have them: nested, from Windows, with leftovers, with gaps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.registry import read_dataset
from relabel.errors import DataError, Problems
from tests.builders.datasets import write_image

BOX = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"


def put(
    file: Path, filename: str = "", *, shape: str = BOX, size: str = "80", more: str = ""
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"<annotation>{more}<filename>{filename}</filename><size><width>{size}</width>"
        f"<height>40</height></size><object><name>van</name>{shape}</object></annotation>",
        encoding="utf-8",
    )


def image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(file, 80, 40)


def load(root: Path, problems: Problems | None = None, **options) -> DetectionDataset:
    return read_dataset(root, "voc", problems=problems or Problems(), **options)


def names(root: Path, **options) -> list[str]:
    return sorted(load(root, **options).images.file_name)


def pair(root: Path, name: str, filename: str = "") -> None:
    put(root / f"Annotations/{name}.xml", filename)
    image(root / f"JPEGImages/{name}.jpg")


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    for name in ("cam1/a", "cam2/a", "top"):
        pair(tmp_path, name, "a.jpg")
    return tmp_path


def test_same_stems_in_different_folders(nested: Path):
    problems = Problems()
    dataset = load(nested, problems)
    assert sorted(dataset.images.file_name) == ["cam1/a.jpg", "cam2/a.jpg", "top.jpg"]
    assert len(dataset.boxes) == 3 and not problems.found
    assert all(dataset.image_path(row).is_file() for row in range(3))


def test_folders_are_splits_where_there_are_no_image_sets(nested: Path):
    assert names(nested, split="cam1") == ["cam1/a.jpg"]
    with pytest.raises(DataError, match=r"has no split 'val'\. Known: cam1, cam2"):
        load(nested, split="val")


def test_linked_folders_are_followed_once(nested: Path):
    for kind in ("Annotations", "JPEGImages"):
        (nested / kind / "cam2").rename(nested / f"{kind}-elsewhere")
        (nested / kind / "cam2").symlink_to(nested / f"{kind}-elsewhere")
        (nested / kind / "cam2/round").symlink_to(nested / kind)
    assert names(nested) == ["cam1/a.jpg", "cam2/a.jpg", "top.jpg"]


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("cam1/a\ntop\n", ["cam1/a.jpg", "top.jpg"]),
        ("\ufeffcam1/a\r\n\r\n  \r\ntop 1\r\n", ["cam1/a.jpg", "top.jpg"]),
        ("cam1/a.jpg\ntop.xml -1", ["cam1/a.jpg", "top.jpg"]),
        ("JPEGImages/cam1/a.jpg\n/data/voc/JPEGImages/top.jpg", ["cam1/a.jpg", "top.jpg"]),
        (".\\cam1\\a.jpg\nC:\\voc\\top.JPG", ["cam1/a.jpg", "top.jpg"]),
    ],
)
def test_entries_of_image_sets(nested: Path, listing: str, expected: list[str]):
    file = nested / "ImageSets/Main/train.txt"
    file.parent.mkdir(parents=True)
    file.write_bytes(listing.encode())
    assert names(nested, split="training") == expected


def test_image_sets_with_blanks_doubles_and_strangers(nested: Path):
    pair(nested, "my photo 1")
    file = nested / "ImageSets/Main/val.txt"
    file.parent.mkdir(parents=True)
    file.write_text("my photo 1\n")
    (file.parent / "dog_val.txt").write_text("top  1\n")
    assert names(nested, split="valid") == ["my photo 1.jpg"]
    assert names(nested, split="dog_val") == ["top.jpg"]
    with pytest.raises(DataError, match=r"Known: cam1, cam2, val") as caught:
        load(nested, split="test")
    assert "dog_val" not in str(caught.value)
    for entry, what in (("a", "names no XML file"), ("top\ntop.jpg", "appears twice")):
        file.write_text(f"cam1/a\n{entry}\n")
        with pytest.raises(DataError, match=rf"val.txt, line \d: .*{what}"):
            load(nested, split="val")
        assert len(load(nested, Problems(skip_bad=True), split="val"))


@pytest.mark.parametrize(
    "stated",
    [
        "C:\\work\\pics\\a.jpg", "/home/someone/pics/a.jpg", "pics\\a.jpg", "../JPEGImages/a.jpg",
        "another.jpg", "",
    ],
)  # fmt: skip
def test_the_image_is_found_by_its_stem(tmp_path: Path, stated: str):
    for flat in (True, False):
        root = tmp_path / str(flat)
        put(root / ("a.xml" if flat else "Annotations/a.xml"), stated)
        image(root / ("a.jpg" if flat else "JPEGImages/a.jpg"))
        assert names(root) == ["a.jpg"]
        image(root / ("" if flat else "JPEGImages") / "a.png")
        assert names(root) == ["a.jpg"]


def test_the_image_is_found_by_what_the_file_states(tmp_path: Path):
    put(tmp_path / "Annotations/1.xml", "a.jpg", more="<folder>cam1</folder>")
    put(tmp_path / "Annotations/2.xml", "C:\\data\\cam2\\a.jpg")
    put(tmp_path / "Annotations/3.xml", more="<path>/x/JPEGImages/cam3/b.jpg</path>")
    for name in ("cam1/a", "cam2/a", "cam3/b"):
        image(tmp_path / f"JPEGImages/{name}.jpg")
    assert names(tmp_path) == ["cam1/a.jpg", "cam2/a.jpg", "cam3/b.jpg"]


def test_one_tree_is_nested_and_the_other_flat(tmp_path: Path):
    put(tmp_path / "Annotations/day/a.xml")
    image(tmp_path / "JPEGImages/A.JPG")
    put(tmp_path / "Annotations/b.xml")
    image(tmp_path / "JPEGImages/night/b.jpeg")
    assert names(tmp_path) == ["A.JPG", "night/b.jpeg"]
    # Which b it is about cannot be known now.
    image(tmp_path / "JPEGImages/day/b.jpg")
    with pytest.raises(DataError, match=r"b\.xml: may be about 'day/b.jpg' or 'night/b.jpeg'"):
        load(tmp_path)


def test_a_folder_per_split(tmp_path: Path):
    for split in ("train", "valid"):
        pair(tmp_path / split, split[0])
    assert names(tmp_path, split="val") == ["v.jpg"]
    assert names(tmp_path) == ["train/JPEGImages/t.jpg", "valid/JPEGImages/v.jpg"]
    with pytest.raises(DataError, match=r"has no split 'test'\. Known: train, valid"):
        load(tmp_path, split="test")


def test_several_years(tmp_path: Path):
    for year in ("VOC2007", "VOC2012"):
        pair(tmp_path / f"VOCdevkit/{year}", "a")
    assert names(tmp_path / "VOCdevkit/VOC2012") == ["a.jpg"]
    with pytest.raises(DataError, match="holds 2 datasets: VOC2007, VOC2012"):
        load(tmp_path)


def test_hidden_files_are_no_data(tmp_path: Path):
    pair(tmp_path, "a")
    for leftover in ("._a", ".tmp-17-a", "__MACOSX/a"):
        pair(tmp_path, leftover)
        (tmp_path / f"Annotations/{leftover}.xml").write_bytes(b"\0\5\x16\7")
    problems = Problems()
    assert names(tmp_path, problems=problems) == ["a.jpg"]
    assert not problems.found


def test_what_does_not_pair_is_told(tmp_path: Path):
    for name in ("a", "b"):
        pair(tmp_path, name)
    put(tmp_path / "Annotations/c.xml", "c.jpg")
    image(tmp_path / "JPEGImages/d.jpg")
    problems = Problems()
    assert names(tmp_path, problems=problems) == ["a.jpg", "b.jpg"]
    told = " ".join(p.message for p in problems.found)
    assert "1 of 3 images have no label file and are left out (image d.jpg)" in told
    assert "1 of 3 label files have no image and are left out (label c.xml)" in told


def test_hardly_anything_pairs(tmp_path: Path):
    for i in range(3):
        put(tmp_path / f"Annotations/{i}.xml", f"{i}.jpg")
        image(tmp_path / f"JPEGImages/frame{i}.jpg")
    with pytest.raises(DataError, match="0 of 3 images and 3 label files belong together"):
        load(tmp_path)
    # Labels alone are read, and that is told.
    for file in (tmp_path / "JPEGImages").iterdir():
        file.unlink()
    problems = Problems()
    assert names(tmp_path, problems=problems) == ["0.jpg", "1.jpg", "2.jpg"]
    assert "labels are read without images" in problems.found[0].message


def test_a_damaged_file_is_no_missing_label(tmp_path: Path):
    pair(tmp_path, "a")
    pair(tmp_path, "b")
    (tmp_path / "Annotations/b.xml").write_text("<annotation>")
    problems = Problems(skip_bad=True)
    assert names(tmp_path, problems=problems) == ["a.jpg"]
    assert [p.severity for p in problems.found] == ["error"]


def test_encodings(tmp_path: Path):
    text = (
        "<annotation><size><width>80</width><height>40</height></size>"
        f"<object><name>ü</name>{BOX}</object></annotation>"
    )
    folder = tmp_path / "Annotations"
    folder.mkdir()
    image(tmp_path / "JPEGImages/a.jpg")
    for data in (
        b"\xef\xbb\xbf" + text.encode(),
        b'<?xml version="1.0" encoding="ISO-8859-1"?>\r\n' + text.encode("latin-1"),
        b"<?xml version='1.0' encoding='windows-1252'?>" + text.encode("cp1252"),
    ):
        (folder / "a.xml").write_bytes(data)
        assert load(tmp_path).space.names == ["ü"]
    for data in (text.encode("latin-1"), text.encode("utf-16"), b'<?xml encoding="nonsense"?><a/>'):
        (folder / "a.xml").write_bytes(data)
        with pytest.raises(DataError, match=r"a\.xml: "):
            load(tmp_path)


def test_what_is_no_file_is_refused(tmp_path: Path):
    pair(tmp_path, "a")
    os.mkfifo(tmp_path / "Annotations/b.xml")
    with pytest.raises(DataError, match="is a pipe"):
        load(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        load(tmp_path / "Annotations/a.xml")


OUTLINES = {
    "<robndbox><cx>30</cx><cy>20</cy><w>20</w><h>10</h><angle>0</angle></robndbox>": [
        19, 14, 40, 25,
    ],
    "<robndbox><cx>30</cx><cy>20</cy><w>20</w><h>10</h><angle>1.5707963267948966</angle>"
    "</robndbox>": [24, 9, 35, 30],
    "<polygon><pt><x>5</x><y>6</y></pt><pt><x>20</x><y>9</y></pt><pt><x>8</x><y>30</y></pt>"
    "</polygon>": [4, 5, 20, 30],
    "<polygon><x1>5</x1><y1>6</y1><x2>20</x2><y2>9</y2><x3>8</x3><y3>30</y3></polygon>": [
        4, 5, 20, 30,
    ],
}  # fmt: skip


@pytest.mark.parametrize("shape", OUTLINES)
def test_polygons_and_rotated_boxes(tmp_path: Path, shape: str):
    put(tmp_path / "Annotations/a.xml", shape=shape)
    problems = Problems()
    dataset = load(tmp_path, problems)
    assert dataset.boxes.xyxy[0] == pytest.approx(OUTLINES[shape])
    assert problems.summary() == ["1 box without <bndbox>: read from a polygon or a rotated box"]
    # A <bndbox> beside it is what counts.
    put(tmp_path / "Annotations/a.xml", shape=shape + BOX)
    assert load(tmp_path).boxes.xyxy.tolist() == [[4, 4, 20, 20]]


@pytest.mark.parametrize("size", ["0", "", "-3", "nan", "1e400", "9" * 300, "x"])
def test_impossible_sizes(tmp_path: Path, size: str):
    put(tmp_path / "Annotations/a.xml", size=size)
    with pytest.raises(DataError, match=r"a\.xml: .*<size>"):
        load(tmp_path)
    image(tmp_path / "JPEGImages/a.jpg")
    problems = Problems(skip_bad=True)
    assert [*load(tmp_path, problems).images.width] in ([80], [])
