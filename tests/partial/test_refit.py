"""Each class's logistic regression, refitted on its known labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from relabel.datasets.partial.labels import hide
from relabel.errors import StageError
from relabel.partial import refit as module
from relabel.partial.model import CONFIG, load_model
from relabel.partial.predict import predict
from relabel.partial.refit import (
    DEFAULT_PULL,
    PULLS,
    mean_precision,
    refit,
    refit_class,
    refit_model,
)
from relabel.partial.train import train
from tests.builders.partial import RUNTIME, average_precision, planted, quick, with_known


@pytest.mark.parametrize(("images", "channels"), [(40, 5), (6, 30)])
def test_a_refitted_class_is_where_the_gradient_vanishes(images: int, channels: int) -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(0, 1, (images, channels))
    present = rng.random(images) < 0.4
    start, bias, pull = rng.normal(0, 1, channels), 0.3, 0.05
    w, b = refit_class(hidden, present, start, bias, pull)
    error = expit(hidden @ w + b) - present
    np.testing.assert_allclose(hidden.T @ error / images + pull * (w - start), 0, atol=1e-4)
    assert error.mean() + pull * (b - bias) == pytest.approx(0, abs=1e-4)
    assert np.abs(w - start).max() > 0.01


def test_a_strong_pull_leaves_a_class_where_it_was() -> None:
    rng = np.random.default_rng(0)
    hidden, start = rng.normal(0, 1, (20, 4)), rng.normal(0, 1, 4)
    w, b = refit_class(hidden, rng.random(20) < 0.5, start, 0.1, 1e6)
    np.testing.assert_allclose(w, start, atol=1e-4)
    assert b == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("method", ["bce", "hst", "sr"])
def test_refitting_mends_a_layer_that_was_spoilt(method: str, tmp_path: Path) -> None:
    full, features = planted()
    labels = hide(full, 0.5, 0)
    train(labels, features, tmp_path / "run", quick(method), RUNTIME)
    model, _, _ = load_model(tmp_path / "run")
    weights, biases = model.method.last_layer()
    torch.manual_seed(0)
    model.method.set_last_layer(torch.randn_like(weights), torch.zeros_like(biases))
    truth, hidden = full.dense() > 0, labels.dense() == 0

    def precision() -> float:
        with torch.inference_mode():
            z = model.method.logits(model.maps(features.batch(np.arange(120)))).numpy()
        return float(
            np.mean(
                [average_precision(z[hidden[:, c], c], truth[hidden[:, c], c]) for c in range(4)]
            )
        )

    spoilt = precision()
    refit_model(model, labels, features, (0.01,), RUNTIME)[0].put(model)
    assert precision() > spoilt + 0.1


def test_a_class_known_in_one_way_keeps_its_weights(tmp_path: Path) -> None:
    full, features = planted(40, 3)
    known = full.dense()
    known[known[:, 1] > 0, 1] = 0  # absent alone
    known[:, 2] = 0
    labels = with_known(full, known)
    train(labels, features, tmp_path / "run", quick("bce", steps=10), RUNTIME)
    refit(tmp_path / "run", labels, features, tmp_path / "refitted", RUNTIME)
    old, new = (load_model(tmp_path / n)[0].method.last_layer() for n in ("run", "refitted"))
    assert (old[0][0] != new[0][0]).any()
    for before, after in zip(old, new, strict=True):
        torch.testing.assert_close(before[1:], after[1:])


def test_groups_of_classes_give_what_all_together_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, features = planted(40, 4)
    labels = hide(full, 0.6, 0)
    train(labels, features, tmp_path / "run", quick("hst", steps=6), RUNTIME)
    model, _, _ = load_model(tmp_path / "run")
    whole = refit_model(model, labels, features, (0.1,), RUNTIME)[0]
    monkeypatch.setattr(module, "_MOST_CELLS", 100)
    monkeypatch.setattr(module, "_BATCH", 7)
    parts = refit_model(model, labels, features, (0.1,), RUNTIME)[0]
    np.testing.assert_allclose(parts.weights, whole.weights, atol=1e-3)


def test_precision_is_the_mean_over_classes_of_both_kinds() -> None:
    rng = np.random.default_rng(0)
    scores, present, classes = rng.random(60), rng.random(60) < 0.4, rng.integers(0, 4, 60)
    present[classes == 2] = True
    expected = [average_precision(scores[classes == c], present[classes == c]) for c in (0, 1, 3)]
    assert mean_precision(scores, present, classes) == pytest.approx(np.mean(expected))
    assert mean_precision(scores[:0], present[:0], classes[:0]) == 0


def test_what_was_held_back_chooses_how_far(tmp_path: Path) -> None:
    full, features = planted(300, 3, strength=0.7)
    labels = hide(full, 0.6, 0)
    settings = quick("bce", steps=3, lr=1e-4, held_back=0.3)  # hardly trained
    train(labels, features, tmp_path / "run", settings, RUNTIME)
    refit(tmp_path / "run", labels, features, tmp_path / "refitted", RUNTIME)
    config = json.loads((tmp_path / "refitted" / CONFIG).read_text())
    assert config["refitted"] in PULLS
    truth, hidden = full.dense() > 0, labels.dense() == 0
    _, classes = np.nonzero(hidden)
    before, after = (
        mean_precision(predict(tmp_path / n, features).scores[hidden], truth[hidden], classes)
        for n in ("run", "refitted")
    )
    assert after > before + 0.02


def test_without_held_back_labels_the_pull_is_the_default(tmp_path: Path) -> None:
    full, features = planted(30, 2)
    train(full, features, tmp_path / "run", quick("bce", steps=3), RUNTIME)
    refit(tmp_path / "run", full, features, tmp_path / "refitted", RUNTIME)
    config = json.loads((tmp_path / "refitted" / CONFIG).read_text())
    assert config["refitted"] == DEFAULT_PULL


def test_refitting_is_not_repeated_and_other_labels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, features = planted(30, 2)
    train(full, features, tmp_path / "run", quick("bce", steps=3), RUNTIME)
    out = tmp_path / "refitted"
    assert refit(tmp_path / "run", full, features, out, RUNTIME) == out
    for other in (replace(full, classes=("x", "y")), hide(full, 0.5, 0)):
        with pytest.raises(StageError, match="trained on other labels"):
            refit(tmp_path / "run", other, features, tmp_path / "other", RUNTIME)
    monkeypatch.setattr(module, "refit_model", lambda *_: pytest.fail("refitted again"))
    refit(tmp_path / "run", full, features, out, RUNTIME)
