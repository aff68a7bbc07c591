"""Half a character (a lone surrogate) in a field that relabel does not work with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relabel.datasets.alternatives import alternatives_of
from relabel.datasets.federated import federated_columns, without_federated
from relabel.datasets.formats.coco.origins import with_provenance
from relabel.datasets.formats.registry import read_dataset, write_dataset
from relabel.datasets.removed import removed_field
from relabel.files.json_text import raw_fields
from tests.builders.datasets import write_image

HALF = '"x": "\\ud800", "y": NaN'
LONG = "9" * 5000


def coco(folder: Path, *, image: str = HALF, box: str = HALF) -> Path:
    write_image(folder / "a.png", 64, 48, (90, 90, 90))
    file = folder / "t.json"
    file.write_text(
        f'{{"images": [{{"id": 1, "file_name": "a.png", "width": 64, "height": 48, {image}}}],'
        '"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40],'
        f'{box}}}], "categories": [{{"id": 1, "name": "car"}}]}}'
    )
    return file


@pytest.mark.parametrize("format", ["coco", "voc", "yolo", "fiftyone"])
def test_every_format_writes_the_box(tmp_path: Path, format: str) -> None:
    found = read_dataset(coco(tmp_path, box=f'{HALF}, "pose": "Left"'), "coco")
    write_dataset(found, format, tmp_path / "out", copy_images="copy")
    again = read_dataset(tmp_path / "out", format)
    assert again.boxes.xywh.tolist() == [[1, 2, 30, 40]]
    if format == "voc":  # what it has a place for is kept beside what it has none for
        kept = again.boxes.extra
        assert kept is not None and raw_fields(kept[0])["pose"] == msgspec.Raw(b'"Left"')


def test_fields_beside_it_are_read(tmp_path: Path) -> None:
    marks = {
        "relabel_alternatives": ["bus"],
        "relabel_removed": {"reason": "x"},
        "relabel": {"origin": "source", "source_annotation_id": 7},
    }
    box = ", ".join(f'"{k}": {json.dumps(v)}' for k, v in marks.items())
    ids = '"neg_category_ids": [1], "not_exhaustive_category_ids": []'
    found = read_dataset(coco(tmp_path, image=f"{HALF}, {ids}", box=f"{HALF}, {box}"), "coco")
    assert alternatives_of(found.boxes, 0) == ["bus"]
    assert removed_field(found.boxes, 0) == {"reason": "x"}
    provenance = with_provenance(found).boxes.provenance
    assert provenance is not None and provenance.source_id.tolist() == [7]
    assert found.images.extra is not None
    extra: list[bytes | None] = [found.images.extra[0]]
    columns = federated_columns(extra)
    assert columns is not None and [bytes(c[0]) for c in columns] == [b"[1]", b"[]"]
    left = without_federated(extra)
    assert left is not None and set(raw_fields(left[0])) == {"x"}


@pytest.mark.parametrize("mark", ["relabel_alternatives", "relabel_removed"])
def test_in_a_field_of_ours_it_says_nothing(tmp_path: Path, mark: str) -> None:
    found = read_dataset(coco(tmp_path, box=f'"{mark}": ["\\ud800"]'), "coco")
    assert alternatives_of(found.boxes, 0) == []
    assert removed_field(found.boxes, 0) is None


def test_raw_fields() -> None:
    assert raw_fields(None) == raw_fields(b"") == {}
    text = b'{"a": [1.50, "\\ud800"], "b": %s}' % LONG.encode()
    found = raw_fields(text)
    assert json.loads(bytes(found["a"])) == [1.5, "\ud800"]
    assert json.loads(bytes(found["b"])) == LONG
    whole: Any = msgspec.json.decode(b'{"a": 1.50}', type=dict[str, msgspec.Raw])
    assert bytes(raw_fields(b'{"a": 1.50}')["a"]) == bytes(whole["a"]) == b"1.50"
