"""Provenance of relabelled boxes, back from a COCO file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from relabel.datasets.dataset import Provenance, make_boxes
from relabel.datasets.formats.coco.origins import provenance_of, with_provenance
from relabel.datasets.formats.coco.write import encode, write
from relabel.datasets.formats.registry import read_dataset
from relabel.errors import DataError
from tests.builders.datasets import dataset_of, write_image


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 100, 100, (0, 0, 0))
    origin = Provenance(
        "source",
        ["source", "pseudo:t"],
        np.array([7, -1]),
        ["vehicle", ""],
        np.array([0.5, np.nan], np.float32),
    )
    boxes = make_boxes(
        [0, 0], [[0, 0, 9, 9]] * 2, [0, 0], score=[0.9, 0.8], provenance=origin, extra=[None] * 2
    )
    dataset = dataset_of("t", ["car"], ["a.png"], boxes, root=tmp_path)
    file = tmp_path / "a.json"
    write(dataset, file)
    read = read_dataset(file, "coco")
    assert read.boxes.provenance is None
    found = with_provenance(read)
    got = found.boxes.provenance
    assert got is not None and got.dataset == "source"
    assert list(got.origin) == list(origin.origin)
    assert got.source_id.tolist() == [7, -1]
    assert list(got.source_category) == ["vehicle", ""]
    np.testing.assert_array_equal(got.source_iou, origin.source_iou)
    assert with_provenance(found) is found
    # Written again, the annotations are the same.
    again, first = b"".join(encode(found, ".")), file.read_bytes()
    assert again.partition(b'"annotations"')[2] == first.partition(b'"annotations"')[2] != b""
    plain = dataset_of("t", ["car"], ["a.png"], [(0, [0, 0, 9, 9], 0)])
    assert with_provenance(plain) is plain


@pytest.mark.parametrize(
    ("value", "row", "name"),
    [
        ({"source_annotation_id": 2.5, "source_iou": "x", "origin": 3}, -1, ""),
        ({"source_annotation_id": True, "source_category": None}, -1, ""),
        ({"source_annotation_id": 2**80, "source_category": "car"}, -1, "car"),
        ({"source_annotation_id": 5, "more": [1]}, 5, ""),
        (None, -1, ""),
    ],
)
def test_foreign_objects(value: Any, row: int, name: str) -> None:
    found = provenance_of([b"", msgspec.json.encode(value), b"{}"], "a.json")
    assert found is not None
    assert found.source_id.tolist() == [-1, row, -1]
    assert list(found.source_category) == ["", name, ""]
    assert np.isnan(found.source_iou).all() and set(found.origin) == {""}


def test_no_objects_and_wrong_ones() -> None:
    assert provenance_of([b"", b"null"], "a.json") is None
    with pytest.raises(DataError, match=r"a\.json, annotations\[1\]: relabel: "):
        provenance_of([b"", b"[1]"], "a.json")
    with pytest.raises(DataError, match="relabel: "):
        provenance_of([b'{"source_category": 3}'], "a.json")
