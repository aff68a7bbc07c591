"""Boxes that may be of several classes: as a column of names, through files and in training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from relabel.align.store import read_transferred, write_transferred
from relabel.datasets.alternatives import alternatives_field, possible_classes, renamed, told_of_all
from relabel.datasets.dataset import DetectionDataset, Provenance, make_boxes
from relabel.datasets.formats.coco import read as coco
from relabel.datasets.formats.coco import write as coco_write
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.errors import Problems
from relabel.evaluation.baselines import untouched_with_map
from tests.builders.datasets import dataset_of

SPACE = LabelSpace(
    "target",
    (
        Category(3, "car"),
        Category(5, "van"),
        Category(9, "truck"),
        Category(11, "any", ignore=True),
    ),
)


def _dataset(tmp_path: Path, others: np.ndarray) -> DetectionDataset:
    n = len(others)
    boxes = make_boxes(
        [1, 0, 0, 1][:n],
        np.tile([1.0, 2, 10, 10], (n, 1)),
        [0, 1, 3, 2][:n],
        extra=alternatives_field(others, SPACE),
        provenance=Provenance(
            "source", ["source"] * n, np.arange(n), ["x"] * n, np.ones(n, np.float32)
        ),
    )
    return dataset_of("source", SPACE, ["a.png", "b.png"], boxes, size=(50, 40), root=tmp_path)


# Rows in the order given; by image they are 1, 2, 0, 3.
OTHERS = np.array([[0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]], bool)


def test_alternatives_follow_their_boxes_and_survive_files(tmp_path: Path) -> None:
    made = _dataset(tmp_path, OTHERS)
    first, second = possible_classes(made, made.rows(0)), possible_classes(made, made.rows(1))
    assert first is None
    assert second is not None and second.tolist() == [[True, True, True], [True, False, True]]
    every = possible_classes(made, slice(0, 4))
    # A box of a category to ignore is of no class.
    assert every is not None and every[1].tolist() == [False] * 3

    file = coco_write.write(made, tmp_path / "made.json")[0]
    read = coco.read(file, name="source", split=None, problems=Problems(), space=SPACE)
    again = possible_classes(read, read.rows(1))
    assert again is not None and again.tolist() == second.tolist()

    write_transferred(made, tmp_path)
    for ignore_band in (False, True):
        stored = read_transferred(tmp_path, made, SPACE, ignore_band=ignore_band)
        assert stored.boxes.extra == made.boxes.extra


def test_every_label_can_tell_of_its_alternatives(tmp_path: Path) -> None:
    others = np.zeros((4, 3), bool)
    others[1, 2] = True
    boxes = _dataset(tmp_path, others).boxes
    at = int(np.flatnonzero([f is not None for f in boxes.extra or []])[0])
    mixed: list[bytes | None] = [None, b'{"a":1}', b"{}", None]
    mixed[at] = (boxes.extra or [])[at]
    ignore = np.array([False] * 4)
    ignore[3 if at != 3 else 0] = True
    told = told_of_all(replace(boxes, extra=mixed, ignore=ignore)).extra
    assert told is not None
    for row, fields in enumerate(told):
        found = json.loads(fields) if fields else {}
        assert found.get("a") == (1 if mixed[row] == b'{"a":1}' else None)
        expected = None if ignore[row] else ["truck"] if row == at else []
        assert found.get("relabel_alternatives") == expected
    plain = told_of_all(replace(boxes, extra=None))
    assert list(plain.extra or []) == [b'{"relabel_alternatives":[]}'] * 4
    assert possible_classes(_dataset(tmp_path, others).with_boxes(plain), slice(0, 4)) is None


def test_no_alternatives_cost_nothing(tmp_path: Path) -> None:
    plain = _dataset(tmp_path, np.zeros((4, 3), bool))
    assert plain.boxes.extra is None
    assert possible_classes(plain, slice(0, 4)) is None
    write_transferred(plain, tmp_path)
    assert read_transferred(tmp_path, plain, SPACE).boxes.extra is None


def test_unknown_names_and_classes_to_ignore_are_passed_over(tmp_path: Path) -> None:
    plain = _dataset(tmp_path, np.zeros((4, 3), bool))
    fields = [
        b'{"relabel_alternatives":["bike","any",7,"van"]}',
        b'{"relabel_alternatives":"van"}',
        None,
        b'{"alternatives":["truck"]}',
    ]
    odd = plain.with_boxes(replace(plain.boxes, extra=fields))
    found = possible_classes(odd, slice(0, 4))
    assert found is not None
    assert found.tolist()[0] == [False, True, False] and found.tolist()[2] == [True, False, False]
    # Another tool's field of a like name is none of ours.
    assert found.tolist()[3] == [False, False, True]


def test_alternatives_get_new_names_or_none_with_a_new_space(tmp_path: Path) -> None:
    made = _dataset(tmp_path, OTHERS)
    fields = [None, b'{"a":[1],"relabel_alternatives":["car","van"]}', b'{"a":2}', None]
    boxes = replace(made.boxes, extra=fields)
    assert renamed(boxes, {"van": "0:t/van"}).extra == [
        None,
        b'{"a":[1],"relabel_alternatives":["0:t/van"]}',
        b'{"a":2}',
        None,
    ]
    assert renamed(boxes, {}).extra == [None, b'{"a":[1]}', b'{"a":2}', None]
    assert renamed(replace(boxes, extra=None), {}).extra is None
    names = {"car": "car", "van": "van", "truck": "truck", "any": None}
    elsewhere = untouched_with_map(made, LabelSpace.from_names("t", ["truck", "car", "van"]), names)
    assert possible_classes(elsewhere, slice(0, len(elsewhere.boxes))) is None
