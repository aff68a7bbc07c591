"""Where YOLO datasets keep images and labels, and that what does not fit is told."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from relabel.cli import main
from relabel.datasets.formats.registry import read_dataset
from relabel.errors import DataError, Problems
from tests.builders.datasets import write_image

ROW = "0 0.5 0.5 0.2 0.2\n"


def put(root: Path, *files: str) -> Path:
    """Images of 20 x 20 of these names, and text files with one box."""
    for name in files:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() == ".txt":
            file.write_text(ROW)
        else:
            write_image(root / "made.png", 20, 20)
            (root / "made.png").rename(file)
    return root


def config(root: Path, text: str, name: str = "data.yaml") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return root


def read(root: Path, split: str | None = None) -> tuple[dict[str, int], list[str]]:
    """Boxes by image, and all warnings."""
    problems = Problems()
    found = read_dataset(root, "yolo", split=split, problems=problems)
    counts = dict.fromkeys(found.images.file_name, 0)
    for row in found.boxes.image.tolist():
        counts[list(found.images.file_name)[row]] += 1
    return counts, [p.message for p in problems.found] + problems.summary()


TRAIN = "train: images\nnames: [van]\n"


def test_labels_elsewhere_are_an_error_in_every_command(tmp_path, capsys):
    root = config(tmp_path / "d", "train: images/train\nval: images/train\nnames: [van]")
    put(root, "images/train/a.png", "images/train/b.png")
    put(root, "annotations/train/a.txt", "annotations/train/b.txt")
    expected = r"0 of 2 images and 0 label files.* 2 label files of these names lie in annotations/"
    with pytest.raises(DataError, match=expected):
        read(root)
    out = tmp_path / "out"
    for command in (["describe"], ["validate"], ["convert", "--to", "coco", "--out", str(out)]):
        with pytest.raises(SystemExit, match="1"):
            main(["datasets", *command, str(root), "--format", "yolo"])
        shown = capsys.readouterr()
        assert "annotations/train" in shown.out + shown.err
    assert not out.exists()


def test_what_does_not_pair_is_counted(tmp_path, capsys):
    root = config(tmp_path, TRAIN)
    put(root, "images/a.png", "images/e.JFIF", "images/s/f.gif", "images/none.png")
    put(root, "labels/a.txt", "labels/e.TXT", "labels/s/f.txt", "labels/x.txt", "labels/t/y.txt")
    for no_label in ("labels/classes.txt", "labels/notes.txt", "labels/._a.txt"):
        (root / no_label).write_text("van and more")
    (root / "labels/empty.txt").touch()
    counts, told = read(root)
    assert counts == {
        "images/a.png": 1,
        "images/e.JFIF": 1,
        "images/none.png": 0,
        "images/s/f.gif": 1,
    }
    assert told == [
        "1 of 4 images have no label file and are taken as without objects (image images/none.png)",
        "3 of 6 label files have no image and are left out"
        " (label labels/empty.txt, labels/t/y.txt, labels/x.txt)",
    ]
    with pytest.raises(SystemExit, match="0"):
        main(["datasets", "describe", str(root), "--format", "yolo"])
    assert "3 of 6 label files" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["datasets", "validate", str(root), "--format", "yolo", "--json"])
    found = json.loads(capsys.readouterr().out)["problems"]
    assert any("1 of 4 images" in p["message"] for p in found)


def test_an_empty_label_file_is_a_statement(tmp_path):
    root = put(config(tmp_path, TRAIN), "images/a.png", "images/b.png", "labels/a.txt")
    (root / "labels/b.txt").write_text("\n \n")
    assert read(root) == ({"images/a.png": 1, "images/b.png": 0}, [])


def test_one_name_with_two_suffixes_is_told(tmp_path):
    root = put(config(tmp_path, TRAIN), "images/a.jpg", "images/a.png", "labels/a.txt")
    counts, told = read(root)
    assert counts == {"images/a.jpg": 1, "images/a.png": 1}
    assert told == [
        "2 images share a label file with another of the same name (images/a.jpg, images/a.png)"
    ]


@pytest.mark.parametrize(
    "stated", ["Images/train", "images/train", r"images\Train", "./IMAGES/train/"]
)
def test_the_case_of_folders_does_not_matter(tmp_path, stated):
    root = config(tmp_path, f"train: {stated}\nnames: [van]")
    put(root, "Images/train/A.PNG", "Images/train/b.png", "Labels/train/a.txt")
    counts, told = read(root)
    assert counts == {"Images/train/A.PNG": 1, "Images/train/b.png": 0}
    assert len(told) == 1


def test_names_that_differ_in_case_alone_keep_their_own_labels(tmp_path):
    root = put(config(tmp_path, TRAIN), "images/a.png", "images/A.png", "labels/A.txt")
    assert read(root)[0] == {"images/A.png": 1, "images/a.png": 0}


def test_labels_beside_the_images(tmp_path):
    # A folder above that is called images has nothing to do with it.
    root = config(tmp_path / "images/set", "train: photos\nnames: [van]")
    put(root, "photos/x/a.png", "photos/x/a.txt", "photos/b.png", "photos/b.txt", "photos/c.txt")
    (root / "photos/README.txt").write_text("5 photos of vans, 2 of them red")
    put(tmp_path, "labels/set/photos/b.txt", "labels/set/photos/d.txt")
    put(root, "photos/d.png")
    counts, told = read(root)
    assert counts == {"photos/b.png": 1, "photos/d.png": 0, "photos/x/a.png": 1}
    assert told[1:] == ["1 of 3 label files have no image and are left out (label photos/c.txt)"]


def test_of_several_folders_called_images_the_last_counts_first(tmp_path):
    root = config(tmp_path, TRAIN)
    put(root, "images/1/images/a.png", "images/1/labels/a.txt", "labels/1/images/a.txt")
    put(root, "images/2/Images/b.png", "labels/2/Images/b.txt")
    (root / "labels/1/images/a.txt").write_text(ROW * 2)
    assert read(root) == ({"images/1/images/a.png": 1, "images/2/Images/b.png": 1}, [])


def test_linked_folders_are_followed_and_told_where_they_lead_out(tmp_path):
    root = put(config(tmp_path / "d", TRAIN), "images/own/c.png", "labels/own/c.txt")
    put(root, "labels/seqA/a.txt", "labels/in/b.txt", "more/b.png")
    put(tmp_path / "store", "seqA/a.png")
    (root / "images/seqA").symlink_to("../../store/seqA")
    (root / "images/in").symlink_to("../more")
    (root / "images/loop").symlink_to("..")
    counts, told = read(root)
    assert counts == {"images/in/b.png": 1, "images/own/c.png": 1, "images/seqA/a.png": 1}
    out = os.path.realpath(tmp_path / "store/seqA")
    assert told == [f"1 folders are links that lead out of the dataset (images/seqA to {out})"]


def test_hidden_files_are_no_data(tmp_path):
    root = put(config(tmp_path, TRAIN), "images/a.png", "labels/a.txt")
    put(root, "images/.b.png", "labels/.b.txt", "images/.tmp-1-c.png", "images/__MACOSX/d.png")
    config(root, "x", "._data.yaml")
    (root / "images/._a.png").write_bytes(b"\0\5\x16\7")
    assert read(root) == ({"images/a.png": 1}, [])


def test_absent_splits_are_named_and_the_others_read(tmp_path):
    root = config(
        tmp_path,
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [van]\n",
    )
    put(
        root, "train/images/a.png", "train/labels/a.txt", "valid/images/b.png", "valid/labels/b.txt"
    )
    counts, told = read(root)
    assert counts == {"train/images/a.png": 1, "valid/images/b.png": 1}
    assert told == ["test is '../test/images', which does not exist: the split is left out"]
    for alias in ("val", "valid", "validation", "VAL"):
        assert read(root, alias) == ({"valid/images/b.png": 1}, [])
    with pytest.raises(DataError, match=r"data\.yaml: test is .*does not exist"):
        read(root, "test")
    (root / "test/images").mkdir(parents=True)
    assert "names no images" in read(root)[1][0]
    with pytest.raises(DataError, match=r"has no split 'minival'. Known: test, train, val"):
        read(root, "minival")


def test_images_and_labels_of_no_split_are_told(tmp_path):
    root = config(tmp_path, "train: images/train\nval:\ntest: null\nnames: [van]")
    put(root, "images/train/a.png", "labels/train/a.txt", "images/test/b.png", "labels/test/b.txt")
    put(root, "labels/val/c.txt")
    counts, told = read(root)
    assert counts == {"images/train/a.png": 1}
    assert told == [
        "1 images are in none of the splits that are read (images/test/b.png)",
        "1 of 2 label files have no image and are left out (label labels/val/c.txt)",
    ]
    assert read(root, "train") == (counts, [])


def test_lists_may_have_marks_backslashes_and_repeats(tmp_path):
    root = put(tmp_path, "images/a.png", "images/b c.png", "labels/a.txt", "labels/b c.txt")
    put(root, "images/d.png", "labels/d.txt")
    config(root, "\ufefftrain: lists/train.txt\nval: [./lists/val.txt]\nnames: [van]")
    (root / "lists").mkdir()
    (root / "lists/train.txt").write_bytes(
        "\ufeff./images/a.png\r\n\r\nimages\\b c.png\r\n../images/a.png".encode()
    )
    (root / "lists/val.txt").write_text(f"{root}/images/a.png\n")
    counts, told = read(root)
    assert counts == {"images/a.png": 1, "images/b c.png": 1}
    assert told == [
        "1 lines name an image again and count once",
        "1 images are in none of the splits that are read (images/d.png)",
    ]
    (root / "lists/train.txt").write_text("images/a.png\nimages/gone.png\n")
    with pytest.raises(DataError, match=r"train\.txt, line 2: there is no image 'images/gone"):
        read(root)


def cvat(root: Path, *, data: bool = True, lists: bool = True) -> Path:
    put(root, "obj_train_data/a.png", "obj_train_data/a.txt", "obj_train_data/s/b.png")
    put(root, "obj_train_data/s/b.txt", "obj_valid_data/c.png", "obj_valid_data/c.txt")
    (root / "obj.names").write_text("van\ncone\n")
    if data:
        (root / "obj.data").write_text(
            "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\n"
            "names = data/obj.names\nbackup = backup/\n"
        )
    if lists:
        (root / "train.txt").write_text(
            "data/obj_train_data/a.png\ndata\\obj_train_data\\s\\b.png\n"
        )
        (root / "valid.txt").write_text("data/obj_valid_data/c.png\n")
    return root


@pytest.mark.parametrize(("data", "lists"), [(True, True), (False, True), (False, False)])
def test_subsets_of_darknet_and_cvat(tmp_path, data, lists):
    root = cvat(tmp_path, data=data, lists=lists)
    train = {"obj_train_data/a.png": 1, "obj_train_data/s/b.png": 1}
    valid = {"obj_valid_data/c.png": 1}
    assert read(root) == ({**train, **valid}, [])
    assert read(root, "train") == (train, [])
    assert read(root, "val") == (valid, [])
    with pytest.raises(DataError, match=r"has no split 'test'. Known: train, valid"):
        read(root, "test")


def test_a_list_without_the_other_subset_and_lists_alone(tmp_path):
    root = cvat(tmp_path / "a")
    (root / "obj.data").write_text("train = train.txt\nnames = obj.names\n")
    told = read(root)[1]
    assert told == ["1 images are in none of the splits that are read (obj_valid_data/c.png)"]
    # A list for one subset, a folder for the other.
    (root / "obj.data").unlink()
    (root / "valid.txt").unlink()
    (root / "train.txt").write_text("obj_train_data/a.png")
    assert list(read(root)[0]) == ["obj_train_data/a.png", "obj_valid_data/c.png"]
    assert list(read(root, "val")[0]) == ["obj_valid_data/c.png"]
    root = put(tmp_path / "b", "imgs/a.png", "imgs/a.txt", "imgs/b.png", "imgs/b.txt")
    (root / "classes.txt").write_text("\ufeffvan\r\n")
    (root / "train.txt").write_text("imgs/a.png\n")
    (root / "test.txt").write_text("imgs/b.png\n")
    assert read(root, "test") == ({"imgs/b.png": 1}, [])
    assert read_dataset(root, "yolo").space.names == ["van"]


def test_splits_as_folders_beside_a_file_of_names(tmp_path):
    flat = put(tmp_path / "flat", "images/a.png", "labels/a.txt")
    (flat / "classes.txt").write_text("van")
    assert read(flat) == ({"images/a.png": 1}, [])
    with pytest.raises(DataError, match=r"has no split 'train'. Known: none"):
        read(flat, "train")
    inside = put(tmp_path / "inside", "images/train/a.png", "labels/train/a.txt")
    put(inside, "images/valid/b.png", "labels/valid/b.txt")
    (inside / "classes.txt").write_text("van")
    outside = put(tmp_path / "outside", "train/images/a.png", "train/labels/a.txt")
    put(outside, "valid/images/b.png", "valid/labels/b.txt")
    (outside / "classes.txt").write_text("van")
    for root, name in ((inside, "images/valid/b.png"), (outside, "valid/images/b.png")):
        assert len(read(root)[0]) == 2
        assert read(root, "val") == ({name: 1}, [])
        with pytest.raises(DataError, match=r"has no split 'test'. Known: train, valid"):
            read(root, "test")


@pytest.mark.parametrize(
    "text",
    [
        "path: ../outside\ntrain: images\n",
        "path: {tmp}/outside\ntrain: images\n",
        "train: ../outside/images\n",
        "train: ['images', '{tmp}/outside/images']\n",
        "train: ..\\outside\\images\n",
        "path: ..\ntrain: outside/images\n",
        "train: images\nnames: ../outside/names.txt\n",
        "train: ../outside/list.txt\n",
    ],
)
def test_paths_stay_inside_the_dataset(tmp_path, text):
    outside = put(tmp_path / "outside", "images/x.png", "labels/x.txt")
    (outside / "list.txt").write_text("images/x.png")
    (outside / "names.txt").write_text("secret")
    text = text.format(tmp=tmp_path) + ("" if "names" in text else "names: [van]")
    root = put(config(tmp_path / "d", text), "images/a.png", "labels/a.txt")
    with pytest.raises(DataError, match=r"data\.yaml.*leads out of .*relabel\.toml"):
        read(root)


def test_paths_that_the_user_gave_are_inside(tmp_path):
    root = put(tmp_path / "d", "images/a.png", "labels/a.txt")
    elsewhere = config(tmp_path / "configs", "path: ../d\ntrain: images\nnames: [van]")
    with pytest.raises(DataError, match="leads out"):
        read(elsewhere)
    found = read_dataset(root, "yolo", annotations="../configs/data.yaml")
    assert list(found.images.file_name) == ["images/a.png"]
    # The folder by another name of it, and one that is not there on this machine.
    config(root, f"path: {os.path.realpath(root)}\ntrain: images\nnames: [van]")
    (tmp_path / "link").symlink_to("d")
    assert read(tmp_path / "link") == ({"images/a.png": 1}, [])
    for path in ("/content/d", r"C:\d", "~/d", "../nowhere"):
        config(root, f"path: {path}\ntrain: images\nnames: [van]")
        assert read(root) == ({"images/a.png": 1}, [])


def test_a_folder_with_several_yaml_files_or_another_name(tmp_path):
    root = put(tmp_path, "images/a.png", "labels/a.txt")
    config(root, TRAIN, "vans.yml")
    assert len(read(root)[0]) == 1
    config(root, TRAIN, "more.yaml")
    with pytest.raises(DataError, match=r"several YAML files \(more\.yaml, vans\.yml\)"):
        read(root)
    config(root, TRAIN, "Data.YAML")
    assert len(read(root)[0]) == 1


def names_of(root: Path, text: str) -> list[str]:
    config(root, f"train: images\n{text}")
    put(root, "images/a.png", "labels/a.txt")
    return read_dataset(root, "yolo").space.names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("names: [yes, No, on, null, ~, 007, 1.10, 2024-01-01, 0x1F]", None),
        ("names:\n  0: off\n  1: 1e3", ["off", "1e3"]),
        ("names: {'1': b, \"0\": a}", ["a", "b"]),
        ("names: ['it''s', \"b: c\"]\nnc: '2'", ["it's", "b: c"]),
        ("nc: 2", ["class_0", "class_1"]),
        ("names: classes.txt\nnc: 2", ["van", "cone"]),
        ("names: .\\classes.txt", ["van", "cone"]),
    ],
)
def test_names_stay_the_text_that_was_written(tmp_path, text, expected):
    (tmp_path / "classes.txt").write_text("\ufeffvan\r\ncone\r\n\r\n")
    if expected is None:
        expected = ["yes", "No", "on", "null", "~", "007", "1.10", "2024-01-01", "0x1F"]
    assert names_of(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("names: van", "names is 'van', neither a list nor a file of names"),
        ("names: [a, '']", "class 1 has no name"),
        ("names: {0: a, 1: }", "class 1 has no name"),
        ("names: [[a], b]", "class 0 has no name"),
        ("names: [a, b, a]", "the class name 'a' appears twice, as 0 and 2"),
        ("names: {a: 0, b: 1}", "names are not numbered from 0"),
        ("names: {-1: a}", "names are not numbered from 0"),
        ("names: {99999999999: a}", "names are not numbered from 0"),
        ("names: {0: a, 0: b}", "appears twice"),
        ("names: []", "no class names"),
        ("names: [a]\nnc: 2", "nc is 2 but there are 1 names"),
        ("names: [a]\nnc: many", "nc is 'many', which is no number"),
        ("nc: 1000000000", "nc is '1000000000', which is no number"),
        ("names: [a]\ntest: {a: 1}", "test is neither a path nor a list of paths"),
        ("names: &a [&b [x, x]]\nx: *a\ny: [*a, *b]\nnc: [1]", "nc is"),
    ],
)
def test_names_that_are_none(tmp_path, text, expected):
    with pytest.raises(DataError, match=rf"data\.yaml.*{expected}"):
        names_of(tmp_path, text)


def test_files_of_names_that_are_none(tmp_path):
    root = put(tmp_path, "images/a.png", "labels/a.txt")
    for text, expected in (
        ("\n\n", "no class names"),
        ("a\n\nb\n", r"line 2: class 1 has no name"),
        ("a\nb\na", "'a' appears twice"),
    ):
        (root / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=rf"classes\.txt.*{expected}"):
            read(root)
    (root / "classes.txt").write_bytes("van".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        read(root)


def test_aliases_in_data_yaml_do_not_explode(tmp_path):
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 10)]
    text = "\n".join(["l0: &l0 [a]", *levels, "names: *l9"])
    with pytest.raises(DataError, match=r"data\.yaml, line \d+: aliases"):
        names_of(tmp_path, text)


def test_fractions_are_of_the_upright_picture(tmp_path):
    root = put(config(tmp_path, TRAIN), "labels/a.txt")
    (root / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright: stored 100 x 40, shown 40 x 100
    Image.new("RGB", (100, 40)).save(root / "images/a.jpg", exif=exif)
    (root / "labels/a.txt").write_text("0 0.25 0.1 0.5 0.2")
    found = read_dataset(root, "yolo")
    assert (found.images.width.tolist(), found.images.height.tolist()) == ([40], [100])
    assert found.boxes.xywh[0] == pytest.approx([0, 0, 20, 20])


def test_folders_without_labels_are_looked_for_in_one_listing(tmp_path, monkeypatch):
    folders = [f"day{i}" for i in range(12)]
    root = config(tmp_path / "d", "train: images\nnames: [van]")
    put(root, *(f"images/{folder}/a.png" for folder in folders))
    put(root, *(f"labels/{folder}/a.txt" for folder in folders[:4]), "labels/DAY4/a.txt")
    listed = []

    def listdir(folder):
        listed.append(os.fspath(folder))
        return real(folder)

    real = os.listdir
    monkeypatch.setattr(os, "listdir", listdir)
    counts, _ = read(root)
    assert {f.split("/")[-2] for f, n in counts.items() if n} == {*folders[:5]}
    # Once for what there is, once for all seven folders that have none.
    assert listed.count(str(root / "labels")) == 2
