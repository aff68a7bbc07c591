"""The layouts of multi-label sets, and detection sets as partial labels."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relabel.catalogue.catalogue import load_catalogue
from relabel.datasets.classes import MOST_CLASSES
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.datasets.partial.detection import from_detection
from relabel.datasets.partial.files import write_partial
from relabel.datasets.partial.layouts import read_coco, read_nus_wide, read_vg200, read_voc
from relabel.datasets.partial.opening import has_split, in_space, only_classes, open_partial
from relabel.datasets.pixels.location import read_rgb
from relabel.errors import ConfigError, DataError

from .test_labels import made


def picture(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 9, 9)).save(path)


def annotation(id, image, category, **more):
    return {
        "id": id, "image_id": image, "category_id": category, "bbox": [1, 1, 2, 2],
        "area": 4, "iscrowd": 0, **more,
    }  # fmt: skip


def coco(folder, split="train2014", categories=("cat", "dog", "bus"), **images):
    """A COCO-2014 folder; keywords are images by stem with their lists of annotations."""
    records, boxes = [], []
    for number, (stem, these) in enumerate(images.items(), 1):
        fields = {}
        if isinstance(these, tuple):
            these, fields = these
        records.append(
            {"id": number, "file_name": f"{stem}.jpg", "width": 8, "height": 8, **fields}
        )
        boxes += [annotation(len(boxes) + 1 + i, number, *b[:1], **b[1]) for i, b in enumerate(
            [(b, {}) if isinstance(b, int) else b for b in these]
        )]  # fmt: skip
        picture(folder / split / f"{stem}.jpg")
    file = folder / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": 10 + i, "name": name} for i, name in enumerate(categories)]
    content = {"images": records, "annotations": boxes, "categories": rows}
    file.write_text(json.dumps(content))
    return folder


def test_coco_counts_crowds_and_leaves_out_ignored_boxes(tmp_path):
    coco(
        tmp_path,
        b=[10, 10, (11, {"iscrowd": 1}), (12, {"ignore": 1})],
        a=[],
    )
    labels = open_partial(tmp_path)
    assert labels.file_names == ["b.jpg", "a.jpg"]  # the file's order, on which hiding depends
    assert labels.classes == ("cat", "dog", "bus")
    assert labels.dense().tolist() == [[1, 1, 0], [-1, -1, -1]]
    assert read_rgb(labels.location(0)).shape == (8, 8, 3)


def test_coco_test_images_are_val_where_there_are_no_others(tmp_path):
    coco(tmp_path, a=[10])
    coco(tmp_path, "val2014", v=[11], w=[12])
    assert open_partial(tmp_path, "train").file_names == ["a.jpg"]
    assert open_partial(tmp_path, "test").file_names == ["v.jpg", "w.jpg"]
    assert has_split(tmp_path, "test")
    with pytest.raises(DataError, match="no COCO annotation file for split 'minival'"):
        open_partial(tmp_path, "minival")


def test_lvis_images_tell_of_their_own_classes_only(tmp_path):
    coco(
        tmp_path,
        a=([10], {"neg_category_ids": [11], "not_exhaustive_category_ids": [10]}),
        b=([], {"neg_category_ids": [], "not_exhaustive_category_ids": []}),
        c=([], {"neg_category_ids": [10, 12], "not_exhaustive_category_ids": [12]}),
        d=([11], {"neg_category_ids": [11, 99], "not_exhaustive_category_ids": []}),
    )
    expected = [[1, -1, 0], [0, 0, 0], [-1, 0, 0], [0, 1, 0]]
    assert read_coco(tmp_path).dense().tolist() == expected
    assert from_detection(read_dataset(tmp_path, "coco")).dense().tolist() == expected


def test_lvis_stays_federated_through_the_catalogue_s_classes_and_spaces(tmp_path):
    coco(tmp_path / "set", a=([10], {"neg_category_ids": [11]}), b=([], {"neg_category_ids": []}))
    space = "name: mine\ncategories:\n- {id: 1, name: bus}\n- {id: 2, name: feline, aliases: [cat]}"
    (tmp_path / "mine.yaml").write_text(space + "\n- {id: 3, name: dog}\n- {id: 4, name: cow}\n")
    text = '[datasets.{}]\nroot = "set"\nformat = "coco"\n{}\n'
    (tmp_path / "relabel.toml").write_text(
        text.format("few", 'classes = ["dog", "bus"]') + text.format("mapped", 'space="mine.yaml"')
    )
    catalogue = load_catalogue(tmp_path)
    few = open_partial(catalogue.get("few"))
    assert (few.name, few.classes) == ("few", ("dog", "bus"))
    assert few.dense().tolist() == [[-1, 0], [0, 0]]
    mapped = open_partial(catalogue.get("mapped"))
    assert mapped.classes == ("bus", "feline", "dog", "cow")
    assert mapped.dense().tolist() == [[0, 1, -1, 0], [0, 0, 0, 0]]


def test_selections_of_the_catalogue_hold(tmp_path):
    images: Any = {f"i{n}": [10] if n % 2 else [] for n in range(10)}
    coco(tmp_path / "set", **images)
    (tmp_path / "relabel.toml").write_text(
        '[datasets.s]\nroot = "set"\nformat = "coco"\nholdout = 0.2\nsample = 3\n'
    )
    entry = load_catalogue(tmp_path).get("s")
    train, test = open_partial(entry), open_partial(entry, "test")
    assert train.file_names == list(entry.read("train").images.file_name)
    assert test.file_names == ["i8.jpg", "i9.jpg"]
    assert test.dense()[:, 0].tolist() == [-1, 1]
    assert has_split(entry, "test")
    assert not has_split(entry, "val")
    with pytest.raises(ConfigError, match="names nothing for val"):
        open_partial(entry, "val")
    with pytest.raises(ConfigError, match="has no 'minival'"):
        open_partial(entry, "minival")


def voc(folder, sets, **images):
    for stem, objects in images.items():
        text = "".join(
            f"<object><name>{name.rstrip('?')}</name><difficult>{int(name.endswith('?'))}"
            "</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
            "</object>"
            for name in objects
        )
        file = folder / "Annotations" / f"{stem}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            f"<annotation><filename>{stem}.jpg</filename><size><width>8</width><height>8</height>"
            f"</size>{text}</annotation>"
        )
        picture(folder / "JPEGImages" / f"{stem}.jpg")
    for name, stems in sets.items():
        file = folder / "ImageSets" / "Main" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{stem}\n" for stem in stems))


def test_voc_difficult_objects_alone_are_unknown(tmp_path):
    kit = tmp_path / "VOCdevkit" / "VOC2007"
    voc(
        kit,
        {"trainval": ["b", "a"], "train": ["a"], "test": ["c"]},
        a=["cat", "cat?", "dog?"],
        b=[],
        c=["bus"],
    )
    labels = open_partial(tmp_path / "VOCdevkit", "train")
    assert labels.file_names == ["b.jpg", "a.jpg"]
    assert labels.num_classes == 20
    cat, dog = (labels.classes.index(name) for name in ("cat", "dog"))
    assert labels.dense()[:, [cat, dog]].tolist() == [[-1, -1], [1, 0]]
    assert labels.known.nnz == 39
    assert open_partial(kit, "test").file_names == ["c.jpg"]
    assert read_voc(kit, "trainval").name == "VOC2007"
    assert open_partial(kit).file_names == ["b.jpg", "a.jpg"]  # the test images are not trained on


def test_voc_without_a_test_set_does_not_train_on_val(tmp_path):
    sets = {"trainval": ["a", "b"], "train": ["a"], "val": ["b"]}
    voc(tmp_path, sets, a=["cat"], b=["dog"])
    assert open_partial(tmp_path).file_names == ["a.jpg"]
    assert has_split(tmp_path, "test")
    assert open_partial(tmp_path, "test").file_names == ["b.jpg"]
    voc(tmp_path / "bare", {}, c=["cat"])
    assert open_partial(tmp_path / "bare").file_names == ["c.jpg"]
    assert not has_split(tmp_path / "bare", "test")


def test_a_damaged_test_split_is_there_all_the_same(tmp_path):
    coco(tmp_path, a=[10])
    (tmp_path / "annotations" / "instances_val2014.json").write_text("{")
    assert has_split(tmp_path, "test")  # so that whoever reads it says what is wrong


def vg(folder, labels='{"1.jpg": [0, 199], "2.jpg": [], "3.jpg": [5]}', names="2.jpg\n1.jpg\n"):
    folder.mkdir(exist_ok=True)
    (folder / "vg_category_200_labels_index.json").write_text(labels)
    (folder / "train_list_500.txt").write_text(names)
    (folder / "test_list_500.txt").write_text("3.jpg")
    picture(folder / "VG_100K" / "1.jpg")
    picture(folder / "VG_100K_2" / "2.jpg")


def test_vg200(tmp_path):
    vg(tmp_path)
    labels = open_partial(tmp_path)
    assert labels.file_names == ["2.jpg", "1.jpg"]
    assert (labels.num_classes, labels.classes[199]) == (200, "199")
    assert labels.counts()[0].nonzero()[0].tolist() == [0, 199]
    assert labels.known.nnz == 400
    assert read_rgb(labels.location(0)).shape == read_rgb(labels.location(1)).shape
    assert open_partial(tmp_path, "test").file_names == ["3.jpg"]


def test_damaged_vg200_is_one_line(tmp_path):
    cases = [
        (('{"1.jpg": [200], "2.jpg": []}',), "class 200 is outside 0..199"),
        (('{"1.jpg": []}',), "says nothing of '2.jpg'"),
        (('{"1.jpg": 5}',), "vg_category_200"),
        (('{"1.jpg": [1], "2.jpg": []}', "1.jpg\n1.jpg\n"), "image '1.jpg' is there twice"),
        (('{"../1.jpg": [1]}', "../1.jpg\n"), "leads out"),
    ]
    for arguments, message in cases:
        vg(tmp_path, *arguments)
        with pytest.raises(DataError, match=message):
            read_vg200(tmp_path)
    vg(tmp_path)
    (tmp_path / "train_list_other.txt").write_text("1.jpg")
    with pytest.raises(DataError, match="only one can be a list of image names"):
        read_vg200(tmp_path)


def test_a_vg_file_that_states_a_million_classes_is_refused(tmp_path):
    vg(tmp_path)
    stated = tmp_path / "vg_category_999999_labels_index.json"
    (tmp_path / "vg_category_200_labels_index.json").rename(stated)
    with pytest.raises(DataError, match=f"999,999 classes; at most {MOST_CLASSES:,}"):
        read_vg200(tmp_path)


def nus(folder, flat=False, **labels):
    (folder / "ImageList").mkdir(parents=True, exist_ok=True)
    (folder / "Groundtruth" / "TrainTestLabels").mkdir(parents=True, exist_ok=True)
    (folder / "Groundtruth" / "AllLabels").mkdir(parents=True, exist_ok=True)
    (folder / "Concepts81.txt").write_text("".join(f"{name}\n" for name in labels))
    images = ["actor\\0001_2.jpg", "actor\\0002_3.jpg", "zebra\\0001_4.jpg"]
    (folder / "ImageList" / "Imagelist.txt").write_text("\r\n".join(images))
    (folder / "ImageList" / "TrainImagelist.txt").write_text("\r\n".join(images[:2]))
    (folder / "ImageList" / "TestImagelist.txt").write_text(images[2])
    for name, values in labels.items():
        for part, chosen in (("_Train", values[:2]), ("_Test", values[2:]), ("", values)):
            inside = "TrainTestLabels" if part else "AllLabels"
            file = folder / "Groundtruth" / inside / f"Labels_{name}{part}.txt"
            file.write_text("".join(f"{v}\r\n" for v in chosen))
    for image in images:
        name = image.rpartition("\\")[2] if flat else image.replace("\\", "/")
        picture(folder / "Flickr" / name)


@pytest.mark.parametrize("flat", [False, True])
def test_nus_wide(tmp_path, flat):
    nus(tmp_path, flat, airport=[0, 1, 0], animal=[1, 0, 1])
    labels = open_partial(tmp_path, "train")
    assert labels.file_names == ["actor/0001_2.jpg", "actor/0002_3.jpg"]
    assert labels.classes == ("airport", "animal")
    assert labels.dense().tolist() == [[-1, 1], [1, -1]]
    assert open_partial(tmp_path, "test").dense().tolist() == [[-1, 1]]
    assert open_partial(tmp_path).file_names == labels.file_names
    assert read_nus_wide(tmp_path).dense().tolist() == [[-1, 1], [1, -1], [-1, 1]]
    assert has_split(tmp_path, "test")
    if not flat:
        assert read_rgb(labels.location(1)).shape == (8, 8, 3)


def test_damaged_nus_wide_is_one_line(tmp_path):
    nus(tmp_path, airport=[0, 1, 0], animal=[1, 0, 1])
    file = tmp_path / "Groundtruth" / "TrainTestLabels" / "Labels_animal_Train.txt"
    for text, message in (
        ("1\n", "has 1 lines, but .* lists 2"),
        ("1\n0\n1\n", "has 3 lines"),
        ("1\n0\n" * 10_000, "lines or more"),
        ("1\nx\n", r"line 2: 'x' is neither"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            read_nus_wide(tmp_path, "train")
    file.unlink()
    with pytest.raises(DataError, match="Labels_animal_Train"):
        read_nus_wide(tmp_path, "train")
    (tmp_path / "Concepts81.txt").write_text("../up\n")
    with pytest.raises(DataError, match="no part of a file's name"):
        read_nus_wide(tmp_path, "train")
    (tmp_path / "Concepts81.txt").write_text("animal\nanimal\n")
    with pytest.raises(DataError, match="class 'animal' is there twice"):
        read_nus_wide(tmp_path, "train")


def test_label_files_of_the_catalogue(tmp_path):
    photos = tmp_path / "photos"
    picture(photos / "0.jpg")
    write_partial(made([[1, -1], [0, 1], [-1, -1]]), photos / "train.csv")
    write_partial(made([[1, 1]]), tmp_path / "one.parquet")
    (photos / "few.tsv").write_text("a.jpg\t\t1\t0.9\n")
    vg(tmp_path / "vg")
    nus(tmp_path / "nus", airport=[0, 1, 0])
    rows = {
        "a": 'root = "photos"\nformat = "multilabels"\ntrain = "train.csv"\nholdout = 0.34',
        "b": 'root = "one.parquet"\nformat = "multilabels"',
        "c": 'root = "photos"\nformat = "multilabels"\ntrain = "few.tsv"\nspace = "voc"',
        "d": 'root = "vg"\nformat = "vg200"\ntest_split = "test"',
        "e": 'root = "nus"\nformat = "nus-wide"\ntest_split = "test"',
        "f": 'root = "photos"\nformat = "multilabels"',
        "g": 'root = "photos"\nformat = "multilable"',
    }
    (tmp_path / "relabel.toml").write_text(
        "\n".join(f"[datasets.{name}]\n{text}" for name, text in rows.items())
    )
    entry = load_catalogue(tmp_path).get
    assert open_partial(entry("a")).dense().tolist() == [[1, -1], [0, 1]]
    assert open_partial(entry("a"), "test").dense().tolist() == [[-1, -1]]
    assert open_partial(entry("a")).location(0) == str(photos / "0.jpg")
    assert open_partial(entry("b")).name == "b"
    assert open_partial(entry("c")).classes[:2] == ("aeroplane", "bicycle")
    assert open_partial(entry("d"), "test").file_names == ["3.jpg"]
    assert open_partial(entry("e"), "test").dense().tolist() == [[-1]]
    with pytest.raises(ConfigError, match="names no label file for train"):
        open_partial(entry("f"))
    with pytest.raises(ConfigError, match=r"unknown dataset format 'multilable'.*multilabels"):
        open_partial(entry("g"))


def test_paths_of_label_files_and_of_what_was_completed(tmp_path):
    write_partial(made([[1, 0]]), tmp_path / "labels.parquet")
    assert open_partial(tmp_path).dense().tolist() == [[1, 0]]
    assert open_partial(tmp_path / "labels.parquet").root == tmp_path
    with pytest.raises(ConfigError, match="without a split 'test'"):
        open_partial(tmp_path / "labels.parquet", "test")
    assert not has_split(tmp_path / "labels.parquet", "test")
    with pytest.raises(DataError, match="no such file"):
        open_partial(tmp_path / "none.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither a label file nor"):
        open_partial(tmp_path / "empty")


def test_a_json_is_labels_or_boxes_by_its_content(tmp_path):
    write_partial(made([[1, -1, 0]]), tmp_path / "a.json")
    assert open_partial(tmp_path / "a.json").dense().tolist() == [[1, -1, 0]]
    file = coco(tmp_path / "set", a=[10]) / "annotations" / "instances_train2014.json"
    assert open_partial(file).dense().tolist() == [[1, -1, -1]]


def test_classes_in_another_order_and_classes_that_are_not_there():
    labels = made([[1, -1, 0], [0, 0, 1]], classes=("a", "b", "c"))
    assert only_classes(labels, ["c", "a"]).dense().tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ConfigError, match="no class 'd'"):
        only_classes(labels, ["d"])


def test_several_classes_become_one_of_a_space():
    labels = made([[1, -1], [-1, -1], [-1, 0], [0, 0]], classes=("car", "van"))
    space = LabelSpace(
        "s",
        (Category(1, "vehicle", ("car", "van")), Category(2, "cow"), Category(3, "x", (), True)),
    )
    assert in_space(labels, space).dense().tolist() == [[1, 0], [-1, 0], [0, 0], [0, 0]]
    with pytest.raises(ConfigError, match="no category 'van'"):
        in_space(labels, LabelSpace("s", (Category(1, "car"),)))


def test_regions_to_leave_out_and_ignored_categories_of_any_set(tmp_path):
    coco(tmp_path, a=[10, (11, {"iscrowd": 1}), (12, {"iscrowd": 1}), 12])
    labels = from_detection(read_dataset(tmp_path, "coco"))
    assert labels.dense().tolist() == [[1, 0, 1]]
    assert labels.known.dtype == np.int8
