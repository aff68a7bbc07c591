"""Reading of truth and predictions: what is kept, and what each kind of damage says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relabel.errors import DataError
from relabel.evaluation.predictions import read_annotations, read_predictions


def truth() -> dict[str, Any]:
    return {
        "images": [{"id": 20, "file_name": "b.jpg"}, {"id": 10, "file_name": "a.jpg"}],
        "categories": [{"id": 5, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 20, "category_id": 5, "bbox": [-5, 0, 600.125, 7]},
            {"id": 2, "image_id": 10, "category_id": 5, "bbox": [1, 2, 0, 4], "iscrowd": 1},
        ],
    }


def test_boxes_come_as_written(tmp_path: Path) -> None:
    content = truth()
    content["annotations"][0].update(
        area=11, score=0.1, relabel={"source_category": "vehicle", "origin": "source"}
    )
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content, indent=1))
    found = read_annotations(path)
    assert found.image_id.tolist() == [10, 20]
    assert found.file_name == ["a.jpg", "b.jpg"]
    assert found.image.tolist() == [1, 0]
    assert found.xywh.tolist() == [[-5, 0, 600.125, 7], [1, 2, 0, 4]]
    assert found.area.tolist() == [11, 0]
    assert found.crowd.tolist() == [False, True]
    assert found.score[0] == 0.1
    assert np.isnan(found.score[1])
    assert found.source_category == ["vehicle", ""]


def change(key: str, value: Any) -> dict[str, Any]:
    content = truth()
    content["annotations"][1][key] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (change("bbox", [1, 2, 3]), r"annotations\[1\]\.bbox: .*length 4"),
        (change("bbox", [1, 2, 3, "x"]), r"annotations\[1\]\.bbox\[3\]: expected 'float'"),
        (change("bbox", [1, 2, -3, 4]), r"annotations\[1\]: .*negative size"),
        (change("bbox", [1, float("nan"), 3, 4]), r"annotations\[1\]: .*not finite"),
        (change("bbox", [1, 2, float("inf"), 4]), r"annotations\[1\]: .*not finite"),
        (change("bbox", None), r"annotations\[1\]\.bbox"),
        (change("id", 1), r"annotation id 1 is used more than once"),
        (change("image_id", 11), r"annotations\[1\]: image_id 11 does not exist"),
        (change("image_id", "a"), r"annotations\[1\]\.image_id: expected 'int'"),
        (change("category_id", 6), r"annotations\[1\]: category_id 6 does not exist"),
        (change("image_id", 2**64), r"t\.json, annotations\[1\]"),
        ({**truth(), "images": truth()["images"] * 2}, r"image id 10 is used more than once"),
        ({"annotations": []}, r"missing required field 'images'"),
        ([], r"it holds a list"),
    ],
)
def test_bad_truth_names_file_and_record(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file is empty"),
        ("  \n", "file is empty"),
        (json.dumps(truth())[:-30], "not valid JSON"),
        ("{'images': 1}", "not valid JSON"),
        ("17", "t.json"),
        ("\x00\x01", "not valid JSON|t.json"),
        ("[" * 100_000, "t.json"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    reference = read_annotations(truth())
    for read in (lambda: read_annotations(path), lambda: read_predictions(path, reference)):
        with pytest.raises(DataError, match=message):
            read()


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_annotations(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_annotations(tmp_path)


def result(**changes: Any) -> dict[str, Any]:
    return {"image_id": 20, "category_id": 5, "bbox": [0, 0, 5, 5], "score": 0.5, **changes}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (result(image_id=21), r"\[1\]: image_id 21 does not exist in truth\.json"),
        (result(category_id=4), r"\[1\]: category_id 4 does not exist in truth\.json"),
        (result(score=float("nan")), r"\[1\]: score \[nan\] is not finite"),
        (result(score="high"), r"\[1\]\.score: expected 'float'"),
        (result(bbox=[0, 0, float("nan"), 5]), r"\[1\]: bbox .*not finite"),
        ({"image_id": 20, "category_id": 5, "bbox": [0, 0, 5, 5]}, r"\[1\]: .*'score'"),
        (17, r"\[1\]: expected 'object'"),
    ],
)
def test_bad_results_name_the_record(tmp_path: Path, row: Any, message: str) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(truth()))
    path = tmp_path / "results.json"
    path.write_text(json.dumps([result(), row]))
    reference = read_annotations(tmp_path / "truth.json")
    pattern = message.replace(r"truth\.json", r".*truth\.json")
    with pytest.raises(DataError, match=pattern) as caught:
        read_predictions(path, reference)
    assert str(path) in str(caught.value)
