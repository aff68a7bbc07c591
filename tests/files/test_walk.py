import os
from pathlib import Path

import pytest

from relabel.datasets.formats.pairing import check_pairing
from relabel.datasets.formats.splits import find_split, split_names
from relabel.errors import DataError, Problems
from relabel.files.paths import inside, posix
from relabel.files.walk import walk_files


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_hidden_files_are_no_data_and_linked_folders_are_followed_once(tmp_path: Path):
    root = tmp_path / "ds"
    put(root, "b.jpg", "a/x.JPG", "a/._x.jpg", "a/.tmp-1-0.jpg", "__MACOSX/a/x.jpg", "a/n.txt")
    put(root, ".git/x.jpg", "Thumbs.db")
    put(tmp_path, "store/s.jpg")
    (root / "0link").symlink_to("a")
    (root / "seq").symlink_to("../store")
    (root / "seq2").symlink_to("../store")
    (root / "a/up").symlink_to("..")
    (root / "gone").symlink_to("nowhere")
    (root / "all").symlink_to("/")
    (root / "above").symlink_to("../..")
    assert walk_files(root, {".jpg"}) == ["a/x.JPG", "b.jpg", "seq/s.jpg"]
    assert "a/n.txt" in walk_files(root) and "gone" in walk_files(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_that_cannot_be_listed(tmp_path: Path):
    (tmp_path / "a").mkdir(mode=0)
    with pytest.raises(DataError, match="cannot be listed"):
        walk_files(tmp_path)


def test_paths_stay_inside(tmp_path: Path):
    assert inside(tmp_path, r"images\cam1\a.jpg", file="f") == tmp_path / "images/cam1/a.jpg"
    assert inside(tmp_path, "./a/../b.jpg", file="f") == tmp_path / "b.jpg"
    assert inside(tmp_path, str(tmp_path / "c"), file="f") == tmp_path / "c"
    assert inside(tmp_path, ".", file="f") == tmp_path
    for stated in ("..", "a/../../b", "/etc", "~/x", r"C:\data", r"..\x", "a\0b", r"\\srv\x"):
        with pytest.raises(DataError, match="leads out"):
            inside(tmp_path, stated, file="f")
    assert posix(r"odd\name/a.jpg") == r"odd\name/a.jpg"


def test_splits_go_by_several_names():
    assert find_split("val", ["train", "valid"], file="f") == "valid"
    assert find_split("validation", ["Val", "train"], file="f") == "Val"
    assert find_split("valid", ["valid", "val"], file="f") == "valid"
    assert find_split("extra", ["extra", "train"], file="f") == "extra"
    with pytest.raises(DataError, match=r"no split 'nope'.*Known: train, valid"):
        find_split("nope", ["valid", "train"], file="f")
    with pytest.raises(DataError, match="may be 'val' or 'valid'"):
        find_split("validation", ["valid", "val"], file="f")
    assert split_names("valid") == ["valid", "val", "validation", "dev"]
    assert split_names("day") == ["day"]


def test_pairing():
    def told(paired: int, bare: int, orphans: int) -> list[str]:
        problems = Problems()
        check_pairing(
            paired=paired,
            bare_images=[f"i{n}.jpg" for n in range(bare)],
            orphan_labels=[f"l{n}.txt" for n in range(orphans)],
            file="ds",
            problems=problems,
            remedy="Look.",
        )
        return [p.message for p in problems.found]

    assert told(5, 0, 0) == [] and told(0, 0, 0) == []
    assert told(5, 4, 0) == [
        "4 of 9 images have no label file and are taken as without objects "
        "(image i0.jpg, i1.jpg, i2.jpg, ...)"
    ]
    assert told(5, 0, 1) == ["1 of 6 label files have no image and are left out (label l0.txt)"]
    assert told(1, 1000, 0)  # one labelled image of many is a usual way to begin
    for counts in ((0, 3, 3), (0, 3, 0), (0, 0, 3), (1, 100, 100)):
        with pytest.raises(DataError, match=r"belong together.*Look"):
            told(*counts)
