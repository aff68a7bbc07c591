"""COCO to another format and back, with the worst names: the same, or refused in one line.

What "the same" is: every box to 1e-6 pixels (most to the last digit; COCO itself exactly), its
class, its flag (YOLO has none: such boxes are left out and counted) and its image's file name
(below ``images/SPLIT/`` in YOLO). FiftyOne keeps ids, areas, scores and COCO's other fields too.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import string
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from relabel.datasets.convert import convert
from relabel.datasets.dataset import DetectionDataset, make_boxes
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.formats.yolo import write as yolo
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.errors import DataError, Problems
from tests.builders.datasets import dataset_of, images_of, jpeg, write_image, write_json

FORMATS = ("coco", "voc", "yolo", "fiftyone")
SIZE = (64, 48)
PIXELS = jpeg(*SIZE)
NUMBERS = itertools.count()
# What Ultralytics takes out of a data.yaml before it reads it.
NOT_PRINTED = re.compile(
    "[^\x09\x0a\x0d\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+"
)
SLOW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Every kind of character: controls, half surrogate pairs, marks of direction, emoji, markup.
any_text = st.text(st.characters(), max_size=12)
nasty = st.sampled_from(
    ["yes", "no", "null", "~", "007", "1.0", "1e3", "2024-01-01", "0x1f", ".inf", "=", "<<", "-",
     "#a", "a: b", "a #b", "!!python/object:os.system", "*x", "&x", "%d", "@a", "`a`", "'", '"',
     "[/x]", "<b>&amp;</b>", "]]>", "\x1bcar", "a\tb", "a\nb", "a\r\nb", "\x85", "\u2028",
     "\ufeffa",
     " a", "a ", "\u00a0a", "", " ", "é", "e\u0301", "ß", "SS", "İ", "\u202ecar", "😀", "\ud800",
     "\x00", "\x7f", "\uffff", "{}", "[]", "? a", "| a", "> a", "x" * 300, "y " * 60, "a\\b",
     "C:\\a", "../a", "...", "\U0010ffff"]
)  # fmt: skip
class_names = st.lists(nasty | any_text, min_size=1, max_size=3, unique=True)
parts = st.text(string.ascii_letters + "._- ~", min_size=1, max_size=6) | nasty | any_text
suffixes = st.sampled_from([".jpg", ".PNG", ".jpeg", ".png", "", ".txt", ".jpg ", ".gif"])
file_names = st.lists(
    st.builds(
        lambda folders, stem, suffix: "/".join([*folders, stem + suffix]),
        st.lists(parts | st.sampled_from(["images", "labels", "train", ".", "..", ".x", "a"]),
                 max_size=2),
        parts,
        suffixes,
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip
corner = st.integers(0, 40) | st.floats(0, 40).map(lambda v: round(v, 4))
side = st.integers(1, 60) | st.floats(0.01, 60).map(lambda v: round(v, 4))
ids = st.integers(1, 9) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53, 2**53 + 1])


@st.composite
def datasets(draw: st.DrawFn) -> DetectionDataset:
    """Up to three images and classes and a few boxes; every name and id may be a bad one."""
    labels, names = draw(class_names), draw(file_names)
    rows = []
    for _ in range(draw(st.integers(0, 4))):
        x, y = draw(corner), draw(corner)
        w, h = min(draw(side), SIZE[0] - x), min(draw(side), SIZE[1] - y)
        where = draw(st.integers(0, len(names) - 1)), draw(st.integers(0, len(labels) - 1))
        rows.append((where[0], [x, y, w, h], where[1], draw(st.booleans())))
    space = LabelSpace("x", tuple(Category(i + 1, n) for i, n in enumerate(labels)))
    boxes = make_boxes(
        [r[0] for r in rows],
        [r[1] for r in rows],
        [r[2] for r in rows],
        ignore=[r[3] for r in rows],
        id=draw(st.lists(ids, min_size=len(rows), max_size=len(rows), unique=True)),
    )
    n = len(names)
    images = images_of(names, SIZE, draw(st.lists(ids, min_size=n, max_size=n, unique=True)))
    return dataset_of("x", space, images, boxes)


def content(dataset: DetectionDataset, format: str, prefix: str = "") -> dict[str, list]:
    """By file name the boxes: class, flag, rounded corners; without what YOLO leaves out."""
    found: dict[str, list] = {}
    for i, span in dataset.iter_images():
        name = os.path.normpath(dataset.images.file_name[i])  # ./a.jpg is a.jpg
        found[name.removeprefix(prefix)] = sorted(
            (dataset.space.names[c], bool(g), *np.round(box, 5).tolist())
            for c, g, box in zip(
                dataset.boxes.category[span],
                dataset.boxes.ignore[span],
                dataset.boxes.xywh[span],
                strict=True,
            )
            if not (g and format == "yolo")
        )
    return found


def by_id(dataset: DetectionDataset) -> dict[int, tuple]:
    boxes, names = dataset.boxes, dataset.space.names
    return {
        int(i): (names[c], round(float(a), 6), *np.round(box, 6).tolist())
        for i, c, a, box in zip(boxes.id, boxes.category, boxes.area, boxes.xywh, strict=True)
    }


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("format", FORMATS)
@SLOW
@given(dataset=datasets())
def test_worst_names_come_back_or_are_refused(tmp_path, format, dataset):
    number = next(NUMBERS)
    root, out = tmp_path / f"s{number}", tmp_path / f"o{number}"
    for name in dataset.images.file_name:
        # A name that leads out, or that the file system does not take, has no image.
        with suppress(OSError, ValueError):
            target = root / name
            if ".." not in name.split("/") and target.is_relative_to(root):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(PIXELS)
    dataset = replace(dataset, root=root)
    problems = Problems()
    try:
        convert(dataset, format, out, images="none" if format == "coco" else "copy",
                problems=problems)  # fmt: skip
    except DataError as error:
        assert "\n" not in str(error)
        event("refused")
        assert [f for f in files_in(out) if not f.startswith(".")] == []
        return
    told = Problems()
    back = read_dataset(out, format, split="train", problems=told)
    prefix = "images/train/" if format == "yolo" else ""
    expected = content(dataset, format)
    if format == "yolo":  # folders `images` and `train` in front are not repeated
        shorter = yolo._names(list(dataset.images.file_name), "train")
        expected = dict(zip(shorter, expected.values(), strict=True))
    assert content(back, format, prefix) == expected
    assert not told.errors
    if format != "voc":
        assert back.space.names == dataset.space.names
    assert back.images.id.dtype == np.int64
    if format in ("coco", "fiftyone"):
        small = np.abs(dataset.boxes.id.astype(object)) <= 2**53
        kept, given = by_id(back), by_id(dataset)
        assert all(kept[i] == given[i] for i in dataset.boxes.id[small.astype(bool)].tolist())
        assert np.abs(back.boxes.id).max(initial=0) <= 2**53
        assert len(set(back.boxes.id.tolist())) == len(dataset.boxes)
        renumbered = [p for p in problems.found if "beyond 2^53" in p.message]
        large = np.abs(dataset.images.id.astype(object)) > 2**53
        assert len(renumbered) == bool((~small).any()) + bool(large.any())


@SLOW
@given(names=class_names)
@example(names=["yes", "007", "1.0", "null", "~", "2024-01-01", "#x", "a: b", "é", "e\u0301"])
def test_yaml_names_are_the_same_text_for_every_reader(tmp_path, names):
    """Ultralytics reads data.yaml by yaml.safe_load, after it dropped what is not printable."""
    if any(not n.strip() or n.encode(errors="replace").decode() != n for n in names):
        return
    dataset = dataset_of("x", names, ["a.jpg"])
    yolo.write(dataset, tmp_path)
    text = (tmp_path / "data.yaml").read_text(encoding="utf-8")
    (tmp_path / "data.yaml").unlink()
    assert list(yaml.safe_load(text)["names"].values()) == names
    assert list(yaml.safe_load(NOT_PRINTED.sub("", text))["names"].values()) == names


@pytest.mark.parametrize(
    ("format", "names", "expected"),
    [
        ("yolo", ["noext"], r"image 1: file name 'noext' does not end in"),
        ("voc", ["noext"], r"image 1: file name 'noext' does not end in"),
        ("voc", ["a.jpg", "a.png"], r"image 2: .*same XML file as 'a.jpg'"),
        ("yolo", ["a.jpg", "a.png"], r"image 2: .*share the label file a.txt"),
        ("voc", [" a.jpg"], "begins or ends with a blank"),
        ("voc", ["a\nb.jpg"], "line break"),
        ("yolo", [".cache/a.jpg"], "hidden file"),
        ("voc", ["._a.jpg"], "hidden file"),
        ("yolo", ["__MACOSX/a.jpg"], "hidden file"),
        ("yolo", ["d.jpg", "d.jpg/a.jpg"], "also that of a folder"),
        ("yolo", ["x" * 260 + ".jpg"], "longer than a file's may be"),
        ("voc", ["é" * 130 + ".jpg"], "longer than a file's may be"),
        *((f, ["../a.jpg"], "leads out") for f in FORMATS),
        *((f, ["b/../a.jpg"], "leads out") for f in FORMATS),
        *((f, ["a.jpg/"], "that of a folder") for f in FORMATS),
        *((f, ["/a.jpg"], "is not relative") for f in FORMATS),
        *((f, ["~/a.jpg"], "is not relative") for f in FORMATS),
        *((f, ["C:/a.jpg"], "is not relative") for f in FORMATS),
        *((f, ["s\\a.jpg"], "backslash") for f in FORMATS),
        *((f, ["a\0.jpg"], "NUL") for f in FORMATS),
        *((f, ["a\ud800.jpg"], "half a character") for f in FORMATS),
        *((f, ["a.jpg", "a.jpg"], "is that of image 1 too") for f in FORMATS),
    ],
)
def test_file_names_that_are_refused(tmp_path, format, names, expected):
    out = tmp_path / "out"
    with pytest.raises(DataError, match=expected) as caught:
        convert(dataset_of("x", ["car"], names), format, out, images="none")
    assert "Rename" in str(caught.value)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("format", "name", "expected"),
    [
        ("voc", "\x1bcar", r"category 1: class name '\\x1bcar' holds the character U\+001B"),
        ("voc", "car ", "begins or ends with a blank"),
        ("voc", "\u00a0car", "begins or ends with a blank"),
        ("voc", " ", "is blank"),
        ("yolo", "", "is blank"),
        ("voc", "a\rb", "U\\+000D"),
        *((f, "a\udc80", "half a character") for f in FORMATS),
    ],
)
def test_class_names_that_are_refused(tmp_path, format, name, expected):
    with pytest.raises(DataError, match=expected) as caught:
        convert(dataset_of("x", [name], ["a.jpg"]), format, tmp_path / "out", images="none")
    assert "--map" in str(caught.value)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("format", FORMATS)
def test_images_without_a_size_are_refused(tmp_path, format):
    dataset = dataset_of("x", ["car"], ["a.jpg"], size=(10, 0))
    with pytest.raises(DataError, match=r"a\.jpg, image 1: image has no width or height \(10x0\)"):
        convert(dataset, format, tmp_path / "out", images="none")
    assert files_in(tmp_path) == []


def full(tmp_path: Path) -> Path:
    """A COCO file with all that a file may have, and its images."""
    for name in ("cam1/a b.png", "cam2/a b.png"):
        write_image(tmp_path / "in" / name, *SIZE)
    return write_json(
        tmp_path / "in/labels.json",
        {
            "info": {"year": 2024, "contributor": "é"},
            "licenses": [{"id": 1, "name": "CC"}],
            "images": [
                {"id": 70, "file_name": "cam1/a b.png", "width": 64, "height": 48, "license": 1},
                {"id": 5, "file_name": "cam2/a b.png", "width": 64, "height": 48},
            ],
            "categories": [
                {"id": 9, "name": "van", "supercategory": "vehicle", "keypoints": ["x"]},
                {"id": 3, "name": "Van"},
                {"id": 4, "name": "rack"},
            ],
            "annotations": [
                {"id": 8, "image_id": 70, "category_id": 9, "bbox": [1.25, 2, 30.1, 4.7],
                 "area": 77.5, "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6]]},
                {"id": 2, "image_id": 70, "category_id": 3, "bbox": [0, 0, 64, 48],
                 "area": 3072, "iscrowd": 1},
                {"id": 4, "image_id": 5, "category_id": 3, "bbox": [1, 1, 2.5, 2.5], "area": 6.25,
                 "iscrowd": 0, "score": 0.25, "attributes": {"occluded": True, "a.b": "$x"}},
            ],
        },
    )  # fmt: skip


def test_fiftyone_gives_back_the_same_coco_file(tmp_path):
    source = full(tmp_path)
    problems = Problems()
    convert(read_dataset(source, "coco"), "coco", tmp_path / "a.json", problems=problems)
    convert(
        read_dataset(source, "coco"), "fiftyone", tmp_path / "f", images="copy", problems=problems
    )
    back = read_dataset(tmp_path / "f", "fiftyone", problems=problems)
    convert(back, "coco", tmp_path / "b.json", problems=problems)
    before, after = (json.loads((tmp_path / f"{n}.json").read_bytes()) for n in "ab")
    assert after["info"].pop("relabel") == {"root": "f/data"}
    before["info"].pop("relabel")
    assert after == before
    assert (problems.found, problems.counts) == ([], {})
    assert [back.image_path(i).is_file() for i in range(2)] == [True, True]


def test_what_voc_and_yolo_cannot_keep_is_told_in_one_line(tmp_path):
    dataset = read_dataset(full(tmp_path), "coco")
    lines = {}
    for format in ("voc", "yolo"):
        problems = Problems()
        convert(dataset, format, tmp_path / format, problems=problems)
        (line,) = (p.message for p in problems.found)
        lines[format] = line
        back = read_dataset(tmp_path / format, format, split="train")
        assert sorted(content(back, format, "images/train/")) == ["cam1/a b.png", "cam2/a b.png"]
    lost = (
        "category ids, supercategories (1), image ids, license of images (1), further fields of "
        "categories, `info`, `licenses`, annotation ids, scores (1), areas other than the box's "
        "(1), segmentation (1), attributes (1): left out"
    )
    assert lines == {
        "voc": f"Pascal VOC has no place for classes without boxes (1), {lost}",
        "yolo": f"YOLO has no place for {lost}; image names begin with images/train/ now",
    }


def test_nothing_is_told_where_all_is_kept(tmp_path):
    write_image(tmp_path / "a.png", *SIZE)
    dataset = dataset_of("x", ["gnu"], ["a.png"], [(0, [1, 2, 3, 4], 0)], size=SIZE, root=tmp_path)
    for format in FORMATS:
        problems = Problems()
        convert(dataset, format, tmp_path / "out" / format, problems=problems)
        assert problems.counts == {}
        told = [p.message for p in problems.found]
        assert told == (["image names begin with images/train/ now"] if format == "yolo" else [])


def test_boxes_that_leave_their_image_are_clipped_at_their_sides(tmp_path):
    """YOLO's centre and size cannot be clipped each for itself: that moves the other side."""
    write_image(tmp_path / "a.png", *SIZE)
    dataset = dataset_of(
        "x", ["car"], ["a.png"], [(0, [-10, 8, 42, 20], 0), (0, [70, 0, 5, 5], 0)], size=SIZE,
        root=tmp_path,
    )  # fmt: skip
    for format in ("voc", "yolo", "fiftyone"):
        problems = Problems()
        convert(dataset, format, tmp_path / "out" / format, images="copy", problems=problems)
        assert sorted(problems.counts.values()) == [1, 1]
        told = Problems()
        back = read_dataset(tmp_path / "out" / format, format, split="train", problems=told)
        assert back.boxes.xywh == pytest.approx(np.array([[0, 8, 32, 20]]))
        assert told.counts == {}


def test_names_that_differ_in_case_only_are_told(tmp_path):
    dataset = dataset_of("x", ["car"], ["A.jpg", "a.jpg", "é.jpg", "e\u0301.jpg"])
    problems = Problems()
    convert(dataset, "yolo", tmp_path / "out", images="none", problems=problems)
    assert "2 image names differ from another only in case or accents" in problems.found[0].message


def test_large_ids_are_renumbered_with_both_named(tmp_path):
    boxes = make_boxes([0, 0], [[1, 2, 3, 4]] * 2, [0, 0], id=[2**63 - 1, 1])
    images = images_of(["a.jpg"], ids=[-(2**62)])
    space = LabelSpace("x", (Category(2**53 + 1, "car"),))
    problems = Problems()
    file = convert(
        dataset_of("x", space, images, boxes), "coco", tmp_path / "o.json", problems=problems
    ).files[0]
    data = json.loads(file.read_bytes())
    assert [a["id"] for a in data["annotations"]] == [1, 2]
    assert [a["image_id"] for a in data["annotations"]] == [1, 1]
    assert data["categories"][0]["id"] == 1
    assert [p.message.partition("such as ")[2] for p in problems.found] == [
        f"{-(2**62)} to 1",
        f"{2**63 - 1} to 2",
        f"{2**53 + 1} to 1",
    ]


def test_pycocotools_loads_what_comes_back(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    convert(read_dataset(full(tmp_path), "coco"), "fiftyone", tmp_path / "f", images="copy")
    convert(read_dataset(tmp_path / "f", "fiftyone"), "coco", tmp_path / "b.json")
    loaded = coco.COCO(str(tmp_path / "b.json"))
    assert loaded.getAnnIds(imgIds=[70], iscrowd=False) == [8]
    assert loaded.loadCats([9])[0]["name"] == "van"


REAL = ("chess/pieces/train.json", "tollroad/fine/train.json", "roadside/target/train.json",
        "voc100/coco.json", "tinycoco/annotations/instances_val2017.json")  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("labels", REAL)
def test_real_photos(tmp_path, shared, format, labels):
    place = shared / "data" / labels
    dataset = read_dataset(place, "coco")
    convert(dataset, format, tmp_path, problems=Problems())
    back = read_dataset(tmp_path, format, split="train")
    expected = content(dataset, format, "images/" if format == "yolo" else "")
    assert content(back, format, "images/train/") == expected
