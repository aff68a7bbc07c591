"""COCO as other tools write it: what has one meaning is read, the rest is named with a remedy."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as pycocotools_mask

from relabel.datasets.formats.coco.as_written import read_as_written, read_results
from relabel.datasets.formats.coco.masks import box_around
from relabel.datasets.formats.coco.whole import whole_number
from relabel.datasets.formats.registry import read_dataset, write_dataset
from relabel.errors import DataError, Problems

NAN = math.nan


def content() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 80, "height": 40}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 300},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [30, 4, 20, 20], "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "van"}, {"id": 2, "name": "cone"}],
    }


def changed(**values: Any) -> dict[str, Any]:
    """The content with another first annotation; a value of ... takes the field away."""
    made = content()
    row = {**made["annotations"][0], **values}
    made["annotations"][0] = {k: v for k, v in row.items() if v is not ...}
    return made


def put(folder: Path, data: Any, name: str = "t.json") -> Path:
    file = folder / name
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return file


def both_readers(file: Path, problems: Problems | None = None) -> list[Any]:
    """The boxes that the dataset's reader and the evaluation's give for a file."""
    dataset = read_dataset(file, "coco", problems=problems).boxes
    return [dataset, read_as_written(file).boxes]


def ids_as(kind: Any) -> dict[str, Any]:
    made = content()
    for rows in made.values():
        for row in rows:
            for key in row.keys() & {"id", "image_id", "category_id", "width", "height"}:
                row[key] = kind(row[key])
    return made


@pytest.mark.parametrize("kind", [float, str, lambda i: f"{i}.0", lambda i: f"00{i}"])
def test_whole_numbers_as_text_or_float(tmp_path: Path, kind: Any) -> None:
    for boxes in both_readers(put(tmp_path, ids_as(kind))):
        assert boxes.id.tolist() == [1, 2]
        assert boxes.category.tolist() == [0, 1]
        assert boxes.ignore.tolist() == [False, True]


def test_the_holes_of_a_table(tmp_path: Path) -> None:
    file = put(tmp_path, changed(area=NAN, iscrowd=NAN, segmentation=NAN, score=NAN))
    for boxes in both_readers(file):
        assert boxes.area.tolist() == [400, 400]
        assert boxes.ignore.tolist() == [False, True]
    out = write_dataset(read_dataset(file, "coco"), "coco", tmp_path / "o.json")[0]
    assert "segmentation" not in json.loads(out.read_bytes())["annotations"][0]
    for flag in (1.0, "1", True):
        for boxes in both_readers(put(tmp_path, changed(iscrowd=flag))):
            assert boxes.ignore.tolist() == [True, True]


def test_byte_order_mark_and_gzip(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + json.dumps(content()).encode()
    for name, raw in (("t.json", data), ("u.json", gzip.compress(data, mtime=0))):
        (tmp_path / name).write_bytes(raw)
        for boxes in both_readers(tmp_path / name):
            assert len(boxes) == 2


POLYGON = [[5, 5, 25, 5, 25, 15, 5, 15], [30, 8, 35, 8, 35, 20]]


@pytest.mark.parametrize("bbox", [..., None, []])
@pytest.mark.parametrize(
    ("mask", "box"),
    [
        (POLYGON, [5, 5, 30, 15]),
        (POLYGON[0], [5, 5, 20, 10]),
        ({"size": [40, 80], "counts": [85, 10, 30, 10, 3065]}, [2, 5, 2, 10]),
        ({"size": [40, 80], "counts": [85, 50, 3065]}, [2, 0, 2, 40]),
    ],
)
def test_a_box_that_only_the_mask_gives(tmp_path: Path, bbox: Any, mask: Any, box: Any) -> None:
    problems = Problems()
    file = put(tmp_path, changed(bbox=bbox, segmentation=mask))
    for boxes in both_readers(file, problems):
        assert boxes.xywh[0].tolist() == box
    assert problems.summary() == ["1 box not stated in the file: taken from their masks"]


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_boxes_of_runs_are_those_of_pycocotools(height: int, width: int, data: Any) -> None:
    rows = st.lists(st.booleans(), min_size=width, max_size=width)
    mask = np.array(data.draw(st.lists(rows, min_size=height, max_size=height)), np.uint8)
    encoded: Any = pycocotools_mask.encode(np.asfortranarray(mask))
    runs = {"size": [height, width], "counts": encoded["counts"].decode()}
    if mask.any():
        assert list(box_around(runs)) == pycocotools_mask.toBbox(encoded).tolist()
    else:
        with pytest.raises(ValueError, match="empty"):
            box_around(runs)


def test_a_mask_of_terabytes_is_not_decoded() -> None:
    side = 2**23
    runs = {"size": [side, side], "counts": [side * 5 + 3, 4, side * side - side * 5 - 7]}
    assert box_around(runs) == (5, 3, 1, 4)


BAD_MASKS: list[tuple[Any, str]] = [
    ([], "no segmentation"),
    ("x", "no polygon and no RLE"),
    ([[1, 2, 3]], "x, y"),
    ([[1, 2, 3, "4a"]], "no list of numbers"),
    ([[1, 2, NAN, 4]], "not finite"),
    ([{"a": 1}], "no list"),
    ({"size": [0, 80], "counts": []}, "size"),
    ({"size": [40, 80], "counts": [1, 2]}, "add up"),
    ({"size": [2**31 - 1, 2**31 - 1], "counts": [2**62, 1]}, "add up"),
    ({"size": [40, 80], "counts": [-1, 3201]}, "no run lengths"),
    ({"size": [40, 80], "counts": "abc"}, "cut off"),
    ({"size": [40, 80], "counts": "\u20ac"}, "compressed text"),
    ({"size": [40, 80], "counts": "o" * 99}, "compressed text"),
    ({"size": [40, 80], "counts": [3200]}, "empty mask"),
]


@pytest.mark.parametrize(("mask", "message"), BAD_MASKS)
def test_a_mask_that_gives_no_box(tmp_path: Path, mask: Any, message: str) -> None:
    file = put(tmp_path, changed(bbox=..., segmentation=mask))
    with pytest.raises(DataError, match=f"annotation 1: bbox is missing.*{message}"):
        read_dataset(file, "coco")
    problems = Problems(skip_bad=True)
    assert read_dataset(file, "coco", problems=problems).boxes.id.tolist() == [2]
    assert len(problems.errors) == 1


def test_annotations_of_one_id_are_renumbered_and_named(tmp_path: Path) -> None:
    made = content()
    made["annotations"] += [dict(made["annotations"][0]), {**made["annotations"][1]}]
    del made["annotations"][3]["id"]
    problems = Problems()
    for boxes in both_readers(put(tmp_path, made), problems):
        assert sorted(boxes.id.tolist()) == [1, 2, 3, 4]
    assert [(p.severity, p.record) for p in problems.found if "id 1" in p.message] == [
        ("warning", "annotations[0] and [2]")
    ]
    assert "the second is number 3" in problems.found[-1].message


def test_new_numbers_never_wrap_around(tmp_path: Path) -> None:
    made = changed(id=2**63 - 1)
    del made["annotations"][1]["id"]
    for boxes in both_readers(put(tmp_path, made)):
        assert boxes.id.tolist() == [2**63 - 1, 1]


TWICE = [
    ('"images": [', '"categories": [], "images": [', "'categories' appears twice"),
    ('"images": [', '"info": {}, "info": {}, "images": [', "'info' appears twice"),
    ('"bbox": [4', '"bbox": [1, 1, 2, 2], "bbox": [4', "annotation.*'bbox' appears twice"),
    ('"category_id": 1', '"category_id": 2, "category_id": 1', "annotation.*'category_id'"),
    ('"file_name": "a', '"file_name": "b.jpg", "file_name": "a', "image.*'file_name'"),
    ('"name": "van"', '"name": "bus", "name": "van"', "'name' appears twice"),
]


@pytest.mark.parametrize(("old", "new", "message"), TWICE)
def test_a_key_twice_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = json.dumps(content())
    assert old in text
    file = put(tmp_path, text.replace(old, new, 1))
    for read in (lambda: read_dataset(file, "coco"), lambda: read_as_written(file)):
        with pytest.raises(DataError, match=message):
            read()


def test_a_key_in_a_nested_object_or_a_text_is_not_twice(tmp_path: Path) -> None:
    file = put(tmp_path, changed(attributes={"bbox": 1, "text": 'a "bbox": and "id"'}))
    for boxes in both_readers(file):
        assert len(boxes) == 2


UNUSABLE = [
    (changed(image_id="gate_12"), "annotation 1: image_id .gate_12. is a text.*Number the annot"),
    (changed(category_id=1.5), "annotation 1: category_id 1.5 is a number, not a whole number"),
    (changed(id=2**63), "annotation 9223372036854775808: id .* 64 bits"),
    (changed(id=10**70), "id of more than 60 digits is no whole number"),
    (changed(bbox="4,4,20,20"), "annotation 1: bbox: expected `array`, got `str`"),
    (changed(bbox=[4, 4, 20, 20, 30]), "annotation 1: bbox: expected `array` of length 4"),
    (changed(bbox=[4, 4, None, 20]), "annotation 1: bbox"),
    (changed(bbox=[4, 4, 1e300, 1e300]), "annotation 1: bbox .* too large for any image"),
    (changed(score="high"), "annotation 1: score"),
    (changed(score=[0.5]), "annotation 1: score"),
    ({**content(), "categories": [{"id": "a", "name": "x"}]}, "needs an integer `id`"),
    ({**content(), "images": [{"id": 1, "file_name": "a.jpg", "width": -3}]}, "image 1: width"),
    ({**content(), "images": None}, "has null for the list `images`"),
    ({"id": 1, "file_name": "a.jpg"}, "has no list `images`, only 'id', 'file_name'"),
    (17, "holds a number, not an object"),
    (json.dumps(content()) + "\n" + json.dumps(content()), "JSON lines"),
]


@pytest.mark.parametrize(("data", "message"), UNUSABLE)
def test_what_has_no_one_meaning_is_named(tmp_path: Path, data: Any, message: str) -> None:
    file = put(tmp_path, data)
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(file, "coco")
    assert str(file) in str(caught.value)
    with pytest.raises(DataError):
        read_as_written(file)


def test_encodings_say_what_they_are(tmp_path: Path) -> None:
    made = content()
    made["annotations"][0]["note"] = "Fußgänger"  # in a field that is not decoded
    text = json.dumps(made, ensure_ascii=False)
    for raw, message in (
        (text.encode("latin-1"), "Latin-1"),
        (text.encode("utf-16"), "UTF-16"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n", "git lfs pull"),
    ):
        (tmp_path / "t.json").write_bytes(raw)
        for read in (
            lambda: read_dataset(tmp_path / "t.json", "coco"),
            lambda: read_as_written(tmp_path / "t.json"),
        ):
            with pytest.raises(DataError, match=message):
                read()


def test_text_that_is_no_unicode(tmp_path: Path) -> None:
    text = json.dumps(changed(note="HERE", area=NAN)).replace("HERE", "\\ud800")
    dataset = read_dataset(put(tmp_path, text), "coco")
    out = write_dataset(dataset, "coco", tmp_path / "o.json")[0]
    assert json.loads(out.read_bytes())["annotations"][0]["note"] == "\ud800"
    for old in ("van", "a.jpg", "area"):
        bad = json.dumps(content()).replace(f'"{old}"', '"\\ud800"')
        with pytest.raises(DataError):
            read_dataset(put(tmp_path, bad), "coco")


def test_a_score_that_32_bits_do_not_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="annotation 1: score 1e\\+300 is too large"):
        read_dataset(put(tmp_path, changed(score=1e300)), "coco")


def test_nesting_without_end_is_one_line(tmp_path: Path) -> None:
    text = json.dumps(changed(x="HERE")).replace('"HERE"', "[" * 100_000 + "]" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        read_dataset(put(tmp_path, text), "coco")


@pytest.mark.parametrize("key", ["predictions", "results", "detections", "annotations"])
def test_results_in_a_wrapper(tmp_path: Path, key: str) -> None:
    truth = read_as_written(put(tmp_path, content()))
    row = {"image_id": "1", "category_id": 2.0, "bbox": [1, 2, 3, 4], "score": 0.5}
    found = read_results(put(tmp_path, {key: [row], "version": 1}, "p.json"), truth)
    assert found.images is truth.images
    assert found.boxes.category.tolist() == [1]
    twice = json.dumps({key: [row]}).replace('"score"', '"score": 0.1, "score"')
    with pytest.raises(DataError, match="'score' appears twice"):
        read_results(put(tmp_path, twice, "p.json"), truth)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image_id": "a"}, r"results\[0\].*'a' is image id 1 there"),
        ({"image_id": "a.jpg"}, r"'a.jpg' is image id 1 there"),
        ({"image_id": 7, "file_name": "a.jpg"}, r"image 7.*'a.jpg' is image id 1 there"),
        ({"image_id": 7}, "image 7.*by the id that the truth file gives it"),
        ({"image_id": "zebra"}, "by their ids in the truth file"),
        ({"category_id": 5}, r"category_id 5.*Known: 1 \(van\), 2 \(cone\)"),
        ({"bbox": None}, "bbox is null"),
        ({"score": None}, "score.*labels without scores go to"),
    ],
)
def test_results_that_fit_no_truth(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    truth = read_as_written(put(tmp_path, content()))
    row = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5} | row
    with pytest.raises(DataError, match=message) as caught:
        read_results(put(tmp_path, [row], "p.json"), truth)
    assert "skip-bad" not in str(caught.value)


@given(st.integers(-(2**70), 2**70))
def test_whole_number(value: int) -> None:
    assert whole_number(str(value)) == value
    assert whole_number(f" {value}.00") == value
    assert whole_number(float(value)) == int(float(value))
    assert whole_number(f"{value}.5") == f"{value}.5"
