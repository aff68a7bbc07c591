"""From how reliable a saved model was on held-back images to the scores that are trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relabel.errors import DataError
from relabel.lat.checkpoint import min_precision_scores


def model(folder: Path, **more: object) -> Path:
    (folder / "config.json").write_text(
        json.dumps({"thresholds": {"car": 0.3, "bus": 0.2}, **more})
    )
    return folder


def test_scores_follow_each_classs_own_reliability(tmp_path: Path) -> None:
    # Classes by the order of the thresholds, which is that of the label space.
    tables = {
        "bus": {"scores": [0.1, 0.4], "precision": [0.2, 0.5]},
        "car": {"scores": [0.1, 0.6, 0.8], "precision": [0.1, 0.7, 0.9]},
    }
    folder = model(tmp_path, reliability=tables)
    assert min_precision_scores(folder, 0.5).tolist() == [0.6, 0.4]
    assert min_precision_scores(folder, 0.15).tolist() == [0.6, 0.1]
    assert min_precision_scores(folder, 0.8).tolist() == [0.8, 2.0]  # no bus is so sure


def test_without_held_back_images_nothing_is_left_out(tmp_path: Path) -> None:
    assert min_precision_scores(model(tmp_path), 0.9).tolist() == [0.0, 0.0]
    assert min_precision_scores(model(tmp_path, reliability={}), 0.9).tolist() == [0.0, 0.0]


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as error:
        min_precision_scores(tmp_path, 0.5)
    assert str(error.value.file) == str(tmp_path / "config.json")
    model(tmp_path, reliability={"car": {"scores": [], "precision": []}})
    with pytest.raises(DataError, match="bus"):
        min_precision_scores(tmp_path, 0.5)
