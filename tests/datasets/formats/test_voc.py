import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relabel.datasets.dataset import make_boxes
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.formats.voc.write import write
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError, Problems
from tests.builders.datasets import dataset_of, images_of, write_image

SIZE = "<size><width>60</width><height>40</height><depth>3</depth></size>"


def an_object(name="dog", box=(11, 6, 20, 15), more=""):
    corners = "".join(
        f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def put(root: Path, stem: str, *objects: str, size: str = SIZE, filename: str | None = None):
    file = root / "Annotations" / f"{stem}.xml"
    file.parent.mkdir(parents=True, exist_ok=True)
    name = f"{stem}.jpg" if filename is None else filename
    file.write_text(f"<annotation><filename>{name}</filename>{size}{''.join(objects)}</annotation>")
    return file


def image_set(root: Path, split: str, text: str) -> None:
    file = root / "ImageSets/Main" / f"{split}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_corners_are_one_based_and_inclusive(tmp_path):
    put(
        tmp_path, "a",
        an_object(),
        an_object("cat", (1, 1, 60, 40), "<difficult>1</difficult><truncated>1</truncated>"),
        an_object("dog", ("2.5", "3.5", "10.25", "20")),
    )  # fmt: skip
    dataset = read_dataset(tmp_path, "voc")
    assert dataset.boxes.xywh.tolist() == [
        [10, 5, 10, 10],
        [0, 0, 60, 40],
        [1.5, 2.5, 8.75, 17.5],
    ]
    assert dataset.boxes.ignore.tolist() == [False, True, False]
    assert [dataset.space.names[c] for c in dataset.boxes.category] == ["dog", "cat", "dog"]
    assert dataset.space.names == LabelSpace.load("voc").names
    assert json.loads((dataset.boxes.extra or [])[1] or b"") == {"truncated": "1"}
    assert list(dataset.images.file_name) == ["a.jpg"]


def test_splits_come_from_image_sets_and_share_one_space(tmp_path):
    put(tmp_path, "a", an_object("zebra"))
    put(tmp_path, "b", an_object("apple"))
    put(tmp_path, "c")
    image_set(tmp_path, "train", "a\nc")
    image_set(tmp_path, "val", "b 1\n\n")
    train, val = (read_dataset(tmp_path, "voc", split=s) for s in ("train", "val"))
    assert list(train.images.file_name) == ["a.jpg", "c.jpg"]
    assert list(val.images.file_name) == ["b.jpg"]
    assert train.space.names == val.space.names == ["apple", "zebra"]
    assert len(read_dataset(tmp_path, "voc")) == 3
    with pytest.raises(DataError, match="Known: train, val"):
        read_dataset(tmp_path, "voc", split="test")


def test_the_header_gives_a_missing_size(tmp_path):
    put(tmp_path, "a", an_object(), size="")
    (tmp_path / "JPEGImages").mkdir()
    write_image(tmp_path / "JPEGImages/a.png", 33, 44)
    dataset = read_dataset(tmp_path, "voc")
    assert (dataset.images.width[0], dataset.images.height[0]) == (33, 44)
    assert dataset.image_path(0).is_file()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("<annotation><object>", "not valid XML"),
        ("<html/>", "not a VOC file"),
        (
            '<!DOCTYPE a [<!ENTITY x "y">]><annotation><filename>&x;</filename></annotation>',
            "document type",
        ),
        (f"<annotation><filename>../b.jpg</filename>{SIZE}</annotation>", "leads out"),
        ("<annotation><filename>b.jpg</filename></annotation>", "no <size>"),
        (f"<annotation>{SIZE}<object><name>dog</name></object></annotation>", "no <bndbox>"),
        (f"<annotation>{SIZE}{an_object('')}</annotation>", "no <name>"),
        (f"<annotation>{SIZE}{an_object(box=(1, 'x', 3, 4))}</annotation>", "<ymin> of 'dog'"),
        (f"<annotation>{SIZE}{an_object(box=(1, 'nan', 3, 4))}</annotation>", "not finite"),
        (f"<annotation>{SIZE}{an_object(box=(30, 1, 20, 4))}</annotation>", "negative size"),
    ],
)
def test_bad_files_are_named_and_can_be_skipped(tmp_path, text, expected):
    put(tmp_path, "good", an_object())
    (tmp_path / "Annotations/bad.xml").write_text(text)
    with pytest.raises(DataError, match=expected) as caught:
        read_dataset(tmp_path, "voc")
    assert "bad.xml" in str(caught.value)
    problems = Problems(skip_bad=True)
    dataset = read_dataset(tmp_path, "voc", problems=problems)
    assert len(dataset.boxes) == 1
    assert len(problems.errors) == 1


def test_an_image_described_twice_is_an_error(tmp_path):
    put(tmp_path, "a", filename="x.jpg")
    put(tmp_path, "b", filename="x.jpg")
    (tmp_path / "JPEGImages").mkdir()
    write_image(tmp_path / "JPEGImages/x.jpg", 60, 40)
    with pytest.raises(DataError, match=r"b\.xml: describes 'x\.jpg', as a\.xml does"):
        read_dataset(tmp_path, "voc")


a_box = st.tuples(
    st.integers(0, 2),
    st.integers(0, 99),
    st.integers(0, 79),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2),
    st.booleans(),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(a_box, max_size=10), number=st.integers(0, 10**9))
def test_round_trip(tmp_path, rows, number):
    out = tmp_path / str(number)
    rows = sorted((r for r in rows if r[1] + r[3] <= 100 and r[2] + r[4] <= 80), key=lambda r: r[0])
    boxes = make_boxes(
        [r[0] for r in rows],
        [r[1:5] for r in rows],
        [r[5] for r in rows],
        ignore=[r[6] for r in rows],
    )
    images = images_of(["a.jpg", "b.png", "c.jpg"], (100, 80), ids=[4, 5, 6])
    dataset = dataset_of("x", ["a b", "ö & <c>", "d"], images, boxes, root=tmp_path)
    listing = write(dataset, out, split="val")[0]
    assert listing == out / "ImageSets/Main/val.txt"
    back = read_dataset(out, "voc", split="val", space=dataset.space)
    assert list(back.images.file_name) == ["a.jpg", "b.png", "c.jpg"]
    assert back.boxes.image.tolist() == dataset.boxes.image.tolist()
    assert back.boxes.xywh.tolist() == dataset.boxes.xywh.tolist()
    assert back.boxes.category.tolist() == dataset.boxes.category.tolist()
    assert back.boxes.ignore.tolist() == dataset.boxes.ignore.tolist()


def test_integers_are_written_as_integers_and_folders_kept(tmp_path):
    boxes = [(0, [10, 5, 10, 10], 0), (0, [1.5, 2.5, 8.75, 17.5], 0)]
    dataset = dataset_of("x", ["dog"], ["s/a.jpg", "s_a.jpg"], boxes, size=(60, 40), root=tmp_path)
    files = write(dataset, tmp_path / "o")
    assert [f.relative_to(tmp_path / "o").as_posix() for f in files] == [
        "ImageSets/Main/train.txt",
        "Annotations/s/a.xml",
        "Annotations/s_a.xml",
    ]
    text = files[1].read_text()
    assert "<xmin>11</xmin>" in text
    assert "<xmax>20</xmax>" in text
    assert "<xmin>2.5</xmin>" in text
    assert "<xmax>10.25</xmax>" in text


def test_voc100_in_three_formats(shared):
    """Real photos as VOC, COCO and YOLO; their COCO and YOLO did not take the 1 off xmin, ymin."""
    root = shared / "data/voc100"
    tables = {}
    for path, format in ((root, "coco"), (root, "voc"), (root / "yolo", "yolo")):
        dataset = read_dataset(path, format)
        assert (len(dataset), len(dataset.boxes)) == (100, 273)
        tables[format] = {
            dataset.images.file_name[i]: sorted(
                (dataset.space.names[c], *b)
                for c, b in zip(
                    dataset.boxes.category[s], dataset.boxes.xyxy[s].tolist(), strict=True
                )
            )
            for i, s in dataset.iter_images()
        }
        if format == "voc":
            assert int(dataset.boxes.ignore.sum()) == 38
    for name, rows in tables["coco"].items():
        for a, b, c in zip(rows, tables["voc"][name], tables["yolo"][name], strict=True):
            assert a[0] == b[0] == c[0]
            assert np.array(b[1:]) == pytest.approx(np.array(a[1:]) - [1, 1, 0, 0])
            assert np.array(c[1:]) == pytest.approx(np.array(a[1:]), abs=1e-3)
