"""Training and predicting: resumed exactly, refused where it would mislead, whatever the inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from relabel.datasets.partial.labels import hide
from relabel.errors import ConfigError, DataError, StageError
from relabel.files.tensors import read_tensors
from relabel.partial import train as module
from relabel.partial.features import open_inputs
from relabel.partial.learned import learned_cooccurrence
from relabel.partial.model import CALIBRATION, CONFIG, WEIGHTS, load_model
from relabel.partial.predict import SOURCES, predict, predict_batches
from relabel.partial.train import HELD_BACK, needs_maps, prior_of, train
from tests.builders.colours import SIDE, tiny_resnet
from tests.builders.partial import (
    RUNTIME,
    average_precision,
    labels_of,
    painted,
    planted,
    quick,
    with_known,
)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("method", ["hst", "sst", "sarb", "sr", "curriculum"])
def test_a_training_that_was_cut_off_ends_as_if_it_was_not(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, features = planted(40, 3)
    labels = hide(full, 0.5, 0)
    settings = quick(method, steps=16, checkpoint_every=0.0)
    train(labels, features, tmp_path / "whole", settings, RUNTIME)

    read = type(features).batch
    calls = []

    def cut(self, rows, seed=None):
        if seed is not None:
            calls.append(seed[2])
            if seed[2] == 10 and calls.count(10) == 1:
                raise Interrupted
        return read(self, rows, seed)

    monkeypatch.setattr(type(features), "batch", cut)
    with pytest.raises(Interrupted):
        train(labels, features, tmp_path / "cut", settings, RUNTIME)
    assert not (tmp_path / "cut" / CONFIG).exists()
    train(labels, features, tmp_path / "cut", settings, RUNTIME)
    assert calls.count(3) == 1 and calls.count(12) == 1
    one, two = (read_tensors(tmp_path / name / WEIGHTS) for name in ("whole", "cut"))
    for name, values in one.items():
        torch.testing.assert_close(values, two[name], rtol=0, atol=0, msg=name)


def test_a_finished_training_is_not_repeated_and_another_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, features = planted(30, 3)
    labels, settings = hide(full, 0.5, 0), quick("bce", steps=4)
    train(labels, features, tmp_path / "run", settings, RUNTIME)
    monkeypatch.setattr(module, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert train(labels, features, tmp_path / "run", settings, RUNTIME) == tmp_path / "run"
    for other in (
        (hide(full, 0.6, 0), settings),
        (labels, replace(settings, seed=1)),
        (labels, replace(settings, method="asl")),
    ):
        with pytest.raises(StageError, match="other labels, images or settings"):
            train(other[0], features, tmp_path / "run", other[1], RUNTIME)


def test_the_same_seed_gives_the_same_scores_and_another_does_not(tmp_path: Path) -> None:
    full, features = planted(30, 3)
    labels = hide(full, 0.5, 0)
    scores = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(labels, features, tmp_path / name, quick("hst", steps=6, seed=seed), RUNTIME)
        scores.append(predict(tmp_path / name, features).scores)
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).any()


def test_held_back_labels_calibrate_and_do_not_change_the_weights(tmp_path: Path) -> None:
    full, features = planted(200, 3, strength=0.7)
    labels = hide(full, 0.6, 0)
    settings = quick("bce", steps=150, lr=0.1)  # far too sure of itself
    train(labels, features, tmp_path / "plain", settings, RUNTIME)
    train(labels, features, tmp_path / "calibrated", replace(settings, held_back=0.3), RUNTIME)
    one, two = (read_tensors(tmp_path / n / WEIGHTS) for n in ("plain", "calibrated"))
    for name, values in one.items():
        torch.testing.assert_close(values, two[name], rtol=0, atol=0)
    assert (tmp_path / "calibrated" / HELD_BACK / CONFIG).is_file()
    truth, hidden = full.dense() > 0, labels.dense() == 0
    losses = []
    for name in ("plain", "calibrated"):
        p = predict(tmp_path / name, features).scores[hidden].clip(1e-6, 1 - 1e-6)
        losses.append(-np.log(np.where(truth[hidden], p, 1 - p)).mean())
    assert losses[1] < losses[0]
    row = json.loads((tmp_path / "calibrated" / CALIBRATION).read_text())
    assert min(row["slope"]) > 0


def test_images_of_which_nothing_is_known_are_left_out_where_they_teach_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, features = planted(40, 3)
    known = full.dense()
    known[10:] = 0
    seen: list[np.ndarray] = []
    read = type(features).batch

    def noted(self, rows, seed=None):
        if seed is not None:
            seen.append(np.asarray(rows))
        return read(self, rows, seed)

    monkeypatch.setattr(type(features), "batch", noted)
    for method, highest in (("bce", 9), ("sr", 39)):
        seen.clear()
        labels = with_known(full, known)
        train(labels, features, tmp_path / method, quick(method, steps=12), RUNTIME)
        assert np.concatenate(seen).max() == highest


def test_nothing_known_is_one_line(tmp_path: Path) -> None:
    full, features = planted(10, 2)
    with pytest.raises(DataError, match="nothing is known of the 10 images"):
        train(hide(full, 0, 0), features, tmp_path, quick("bce"), RUNTIME)
    dark = replace(features, readable=np.zeros(10, bool))
    with pytest.raises(DataError, match="no image that can be read"):
        train(full, dark, tmp_path, quick("bce"), RUNTIME)


def test_inputs_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    full, features = planted(10, 2)
    with pytest.raises(ConfigError, match="9 inputs do not belong to 10 images"):
        train(full, features.select(np.arange(9)), tmp_path, quick("bce"), RUNTIME)
    with pytest.raises(ConfigError, match="frozen"):
        train(full, features, tmp_path, quick("bce", frozen=False), RUNTIME)
    means = replace(features, maps=features.maps[:, :, :1, :1])
    assert needs_maps(quick("hst")) and not needs_maps(quick("bce"))
    with pytest.raises(ConfigError, match="hst reads places"):
        train(full, means, tmp_path, quick("hst"), RUNTIME)
    train(full, features, tmp_path / "run", quick("bce", steps=2), RUNTIME)
    with pytest.raises(ConfigError, match="another backbone"):
        predict(tmp_path / "run", replace(features, identity="other"))
    with pytest.raises(ConfigError, match="other classes or images"):
        predict(tmp_path / "run", features, labels=labels_of(np.ones((10, 3))))


def test_the_prior_of_a_class_of_which_nothing_is_known_is_what_all_share() -> None:
    known = np.array([[1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, -1, 0]])
    shared = (4 + 0.5) / 9
    expected = [(3 + shared) / 5, (1 + shared) / 5, shared]
    np.testing.assert_allclose(prior_of(labels_of(known)), expected)


def test_where_nothing_is_known_absent_the_prior_is_the_share_of_all_images() -> None:
    known = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
    shared = (3 + 0.5) / 9
    np.testing.assert_allclose(prior_of(labels_of(known)), [(2 + shared) / 5, (1 + shared) / 5])


def test_predictions_come_in_parts_and_know_their_sources(tmp_path: Path) -> None:
    full, features = planted(150, 3)
    labels = hide(full, 0.5, 0)
    train(labels, features, tmp_path / "run", quick("hst"), RUNTIME)
    parts = list(predict_batches(tmp_path / "run", features, labels=labels))
    assert [len(rows) for rows, _ in parts] == [64, 64, 22]
    assert np.concatenate([rows for rows, _ in parts]).tolist() == list(range(150))
    whole = predict(tmp_path / "run", features, labels=labels)
    np.testing.assert_array_equal(np.concatenate([p.scores for _, p in parts]), whole.scores)
    known = labels.dense()
    assert set(np.unique(whole.source[known == 0])) <= {0, 2, 3}
    assert {SOURCES[s] for s in np.unique(whole.source)} >= {"classifier", "known"}
    truth = full.dense() > 0
    found = whole.source >= 2
    assert found.any() and truth[found].mean() > truth[known == 0].mean() + 0.2
    without = predict(tmp_path / "run", features)
    assert not (without.source == SOURCES.index("known")).any()
    assert not (without.source == SOURCES.index("ist")).any()  # from known labels alone


def test_an_image_that_cannot_be_read_has_the_classes_shares(tmp_path: Path) -> None:
    full, features = planted(30, 3)
    readable = np.ones(30, bool)
    readable[4] = False
    dark = replace(features, readable=readable)
    known = full.dense()
    known[4, 1:] = 0
    labels = with_known(full, known)
    train(labels, dark, tmp_path / "run", quick("bce", steps=5), RUNTIME)
    found = predict(tmp_path / "run", dark, labels=labels)
    np.testing.assert_allclose(found.scores[4, 1:], prior_of(labels)[1:], rtol=1e-5)
    assert found.scores[4, 0] == (known[4, 0] > 0)


def test_a_damaged_folder_is_one_line(tmp_path: Path) -> None:
    full, features = planted(10, 2)
    train(full, features, tmp_path / "run", quick("bce", steps=2), RUNTIME)
    (tmp_path / "run" / WEIGHTS).write_bytes(b"short")
    with pytest.raises(DataError, match="readable safetensors"):
        predict(tmp_path / "run", features)
    (tmp_path / "run" / CONFIG).unlink()
    with pytest.raises(DataError, match="does not exist"):
        predict(tmp_path / "run", features)


@pytest.mark.slow
def test_a_backbone_is_trained_from_pixels(tmp_path: Path) -> None:
    labels = painted(tmp_path / "photos", images=24)
    backbone = tiny_resnet(tmp_path / "resnet")
    settings = quick(
        "hst",
        backbone=str(backbone),
        frozen=False,
        image_size=SIDE,
        steps=40,
        batch_size=8,
        backbone_lr_scale=0.3,
    )
    inputs = open_inputs(labels, settings, RUNTIME, tmp_path / "cache")
    train(hide(labels, 0.7, 0), inputs, tmp_path / "run", settings, RUNTIME)
    before = load_weights(backbone)
    model, _, config = load_model(tmp_path / "run")
    assert model.body is not None and config["body"]["name"] == "resnet"
    after = dict(model.body.net.net.named_parameters())
    moved = [k for k, v in after.items() if not torch.equal(v.detach(), before[k])]
    assert moved
    found = predict(tmp_path / "run", inputs).scores
    truth = labels.dense() > 0
    assert np.mean([average_precision(found[:, c], truth[:, c]) for c in range(3)]) > 0.9
    assert not (tmp_path / "cache").exists()


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import ResNetModel

    return dict(ResNetModel.from_pretrained(folder).named_parameters())


def test_what_is_left_after_holding_back_may_be_of_unreadable_images_alone(tmp_path: Path) -> None:
    """The one present label stays, but its image cannot be read: there is no calibration."""
    full, features = planted(6, 1)
    features = replace(features, readable=np.arange(6) > 0)
    known = np.zeros((6, 1), np.int8)
    known[0], known[1] = 1, -1
    labels = with_known(full, known)
    train(labels, features, tmp_path, quick("bce", steps=2, held_back=0.999), RUNTIME)
    assert json.loads((tmp_path / CALIBRATION).read_text()) == {"slope": [1.0], "offset": [0.0]}


def test_learned_cooccurrence_leaves_out_images_that_cannot_be_read(tmp_path: Path) -> None:
    full, features = planted(24, 3)
    settings = quick("hst", steps=4)
    folder = train(full, features, tmp_path, settings, RUNTIME)
    dark = replace(features, readable=np.arange(24) >= 8)
    found = learned_cooccurrence(folder, dark, full, RUNTIME)
    rows = np.arange(8, 24)
    expected = learned_cooccurrence(folder, features.select(rows), full.select(rows), RUNTIME)
    assert found is not None and expected is not None
    np.testing.assert_allclose(found, expected, rtol=1e-5)
