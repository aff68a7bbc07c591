"""What evaluation says about files that are not quite what it expects."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from relabel.errors import DataError
from relabel.evaluation.detections import evaluate_detections
from relabel.evaluation.errors import evaluate_errors
from relabel.evaluation.transfer import evaluate_transfer


def truth() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "van"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20]}],
    }


def result(score: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "score": score, **more}


def test_scores_in_percent_are_told() -> None:
    metrics = evaluate_detections(truth(), [result(87.0), result(12.5)])
    assert pytest.approx(1.0) == metrics.AP
    assert "scores go up to 87" in metrics.warnings[0]
    # The least score of the confusion table would mean nothing.
    with pytest.raises(DataError, match=r"scores go up to 87.*Divide"):
        evaluate_errors(truth(), [result(87.0)])
    assert evaluate_detections(truth(), [result(1.0)]).warnings == ()


def test_detections_beyond_the_limit_are_counted() -> None:
    metrics = evaluate_detections(truth(), [result(0.5)] * 103)
    assert "3 detections beyond the best 100 of an image and class" in metrics.warnings[0]
    assert evaluate_detections(truth(), [result(0.5)] * 100).warnings == ()


@pytest.mark.parametrize("nothing", [[], {"predictions": []}])
def test_no_predictions_are_told(tmp_path: Path, nothing: Any) -> None:
    (tmp_path / "p.json").write_text(json.dumps(nothing))
    metrics = evaluate_detections(truth(), tmp_path / "p.json")
    assert metrics.AP == 0
    assert "holds no predictions" in metrics.warnings[0]


def test_warnings_of_the_reader_reach_every_report(tmp_path: Path) -> None:
    content = truth()
    content["annotations"].append({**content["annotations"][0], "bbox": [50, 4, 20, 20]})
    mask = {"segmentation": [[4, 4, 24, 4, 24, 24]], "bbox": None}
    found = [result(0.9, **mask), result(0.8, bbox=[50, 4, 20, 20])]
    labels = {**truth(), "annotations": [{**f, "id": i} for i, f in enumerate(found, 1)]}
    reports = (
        evaluate_detections(content, found),
        evaluate_errors(content, found),
        evaluate_transfer(content, labels),
    )
    for report in reports:
        assert any("annotation id 1 appears twice" in w for w in report.warnings)
        assert any("1 box not stated in the file" in w for w in report.warnings)
    # pycocotools would look up one box twice by its id, and find the other nowhere.
    assert pytest.approx(1.0) == reports[0].AP


def test_truth_and_predictions_are_read_alike(tmp_path: Path) -> None:
    bom = b"\xef\xbb\xbf"
    files = []
    for name, value in (("t.json", truth()), ("p.json", [result(0.5, image_id="1")])):
        data = bom + json.dumps(value).encode()
        for i, raw in enumerate((data, gzip.compress(data))):
            (tmp_path / f"{i}{name}").write_bytes(raw)
            files.append(tmp_path / f"{i}{name}")
    for reference in files[:2]:
        for found in files[2:]:
            assert pytest.approx(1.0) == evaluate_detections(reference, found).AP
    with pytest.raises(DataError, match="is a list"):
        evaluate_detections(files[2], files[0])
