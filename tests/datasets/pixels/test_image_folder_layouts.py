"""Class folders and lists of labels with leftovers, links, gaps and impossible numbers."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from relabel.datasets.classes import read_class_list
from relabel.datasets.pixels.image_folder import ImageSet, read_image_set
from relabel.errors import DataError, Problems


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def labelled(images: ImageSet) -> dict[str, int]:
    return dict(zip(images.file_names, images.labels.tolist(), strict=True))


def told(problems: Problems) -> list[str]:
    return [p.message for p in problems.found]


def test_hidden_files_are_no_data(tmp_path: Path):
    put(tmp_path, "ant/a.JPEG", "ant/._a.JPEG", "ant/.tmp-1.png", "__MACOSX/ant/._a.JPEG")
    put(tmp_path, "ant/__MACOSX/b.png", ".thumbs/c.png", "ant/deep/d.Png", "._ant/a.png")
    problems = Problems()
    images = read_image_set(tmp_path, problems=problems)
    assert labelled(images) == {"ant/a.JPEG": 0, "ant/deep/d.Png": 0}
    assert images.class_names == ["ant"] and not problems.found


def test_linked_folders_are_followed_once(tmp_path: Path):
    put(tmp_path / "store", "a/1.png", "b/2.png")
    root = put(tmp_path / "images", "own/3.png")
    (root / "ant").symlink_to(tmp_path / "store/a")
    (root / "bee").symlink_to(tmp_path / "store/b")
    (root / "own/again").symlink_to(root)
    problems = Problems()
    images = read_image_set(root, problems=problems)
    assert labelled(images) == {"ant/1.png": 0, "bee/2.png": 1, "own/3.png": 2}
    assert not problems.found
    # A second class that is the same folder would label every image twice.
    (root / "insect").symlink_to(tmp_path / "store/a")
    assert labelled(read_image_set(root, problems=problems)) == labelled(images)
    assert "1 of 4 class folders hold no images of their own and are no classes (insect)" in told(
        problems
    )


def test_empty_class_folders_are_told(tmp_path: Path):
    put(tmp_path, "ant/a.png", "bee/note.txt", "cow/._x.png")
    (tmp_path / "dog").mkdir()
    problems = Problems()
    assert read_image_set(tmp_path, problems=problems).class_names == ["ant"]
    assert told(problems) == [
        "3 of 4 class folders hold no images of their own and are no classes (bee, cow, dog)"
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfa.png\txx1\r\n\r\ndeep\\b c.PNG\txx2\r\n",
        b'\xef\xbb\xbf"a.png",xx1\r\n.\\deep\\b c.png,"xx2"\r\n',
        gzip.compress(b"a.png\txx1\ndeep/b c.png\txx2\n", mtime=0),
        b"image,class\na.PNG,xx1\ndeep/b c.png,xx2\n",
    ],
)
def test_lists_of_labels(tmp_path: Path, data: bytes):
    root = put(tmp_path / "images", "a.png", "deep/b c.png")
    file = tmp_path / "labels.csv"
    file.write_bytes(data)
    images = read_image_set(root, file)
    assert images.class_names == ["xx1", "xx2"]
    assert labelled(images) == {"a.png": 0, "deep/b c.png": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a.png\t5\nb.png\t1000000000\n", "class '1000000000' is not a class index from 0 to 9"),
        (b"a.png\t5\nb.png\t" + b"9" * 5000 + b"\n", "class '9999999999.* is not a class index"),
        (b"a.png\t0\n.\\a.png\t0\n", r"line 2: 'a\.png' is listed on line 1"),
        ("a.png\tant\n".encode("utf-16"), "line 1: is UTF-16"),
        (b"a.png\tant\nb.png\t\xfc\n", "line 2: not UTF-8"),
        (b"a.png,ant\n\"b.png,bee\n" + b"x" * 200_000, "not a text of lines"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"/etc/passwd\tant\n../b.png\tant\n", "2 of 2 listed files are not in"),
    ],
)  # fmt: skip
def test_bad_lists(tmp_path: Path, data: bytes, message: str):
    root = put(tmp_path / "images", "a.png", "b.png")
    file = tmp_path / "labels.tsv"
    file.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_image_set(root, file)
    assert caught.value.file == str(file) and len(str(caught.value)) < 500


def test_numbers_of_any_length(tmp_path: Path):
    root = put(tmp_path / "dates", "20240101/a.png", "20231231/b.png")
    assert read_image_set(root).class_names == ["20231231", "20240101"]
    put(root, "7/c.png")
    with pytest.raises(
        DataError, match=r"folder '20240101' is not a class index|'20231231' is not"
    ):
        read_image_set(root)
    file = tmp_path / "labels.tsv"
    file.write_text(f"20240101/a.png\t{'9' * 5000}\n")
    with pytest.raises(DataError, match="unknown class"):
        read_image_set(root, file, "voc")


def test_what_is_no_file_is_refused(tmp_path: Path):
    root = put(tmp_path / "images", "a.png")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe"):
        read_image_set(root, tmp_path / "pipe")
    with pytest.raises(DataError, match="is not a folder"):
        read_image_set(tmp_path / "pipe")


def test_names_of_classes_hold_any_mark_but_a_line_end(tmp_path: Path):
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffk1\ta\u2028b\r\nk2\tc\x85d\r\n".encode())
    classes = read_class_list(file)
    assert (classes.keys, classes.names) == (["k1", "k2"], ["a\u2028b", "c\x85d"])
