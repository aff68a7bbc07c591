"""The linear probe: the convex optimum, chosen penalties, missing classes, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from relabel.errors import DataError
from relabel.multilabel.scores.probe import NEVER, Probe, train_probe


def _blobs(
    n: int = 120, d: int = 10, classes: int = 4, noise: float = 0.6
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, d))
    labels = np.arange(n) % classes
    x = centres[labels] + noise * rng.normal(size=(n, d))
    return (5 + 3 * x).astype(np.float32), labels


def test_the_solution_is_the_optimum() -> None:
    """The gradient of the penalised loss in standardised features vanishes at the solution."""
    for n, d in ((120, 10), (24, 60)):  # the second is solved in the span of the images
        x, y = _blobs(n, d)
        probe = train_probe(x, y, 4, penalties=[0.1])
        z = torch.from_numpy(x).double()
        scale = z.std(0, correction=0)
        w = (probe.weight.double() * scale).requires_grad_(True)
        b = (probe.bias.double() + probe.weight.double() @ z.mean(0)).requires_grad_(True)
        loss = F.cross_entropy((z - z.mean(0)) / scale @ w.T + b, torch.from_numpy(y))
        (loss + 0.05 * (w.square().sum() + b.square().sum())).backward()
        assert w.grad is not None
        assert b.grad is not None
        assert float(w.grad.abs().max()) < 1e-5
        assert float(b.grad.abs().max()) < 1e-5


def test_two_points_by_hand() -> None:
    """x = -1 and 1, two classes: by symmetry W = (-w, w), b = 0 and w = (1 - s(2w)) / lambda'."""
    probe = train_probe(np.array([[-1.0], [1.0]]), [0, 1], 2, penalties=[0.5])
    w = float(probe.weight[1, 0])
    assert float(probe.weight[0, 0]) == pytest.approx(-w, abs=1e-6)
    assert probe.bias.tolist() == pytest.approx([0, 0], abs=1e-6)
    # d/dw of log(1 + exp(-2w)) + 0.25 * 2 w^2 is -2 / (1 + exp(2w)) + w.
    assert w == pytest.approx(2 / (1 + np.exp(2 * w)), abs=1e-5)


def test_cross_validation_takes_a_penalty_that_generalises() -> None:
    x, y = _blobs(noise=1.5)
    probe = train_probe(x, y, 4, penalties=[1e3, 0.1, 1e-7])
    assert probe.penalty == 0.1
    assert probe.held_out_accuracy > 0.5  # chance: 0.25
    fresh, truth = _blobs(400, noise=1.5)
    predicted = probe.logits(torch.from_numpy(fresh)).argmax(1).numpy()
    assert (predicted == truth)[120:].mean() > 0.5


def test_the_same_seed_gives_the_same_bits() -> None:
    x, y = _blobs(60, noise=1.5)
    first, again = (train_probe(x, y, 4, 3, penalties=[0.1, 1e-3]) for _ in range(2))
    assert torch.equal(first.weight, again.weight)
    assert first.penalty == again.penalty


def test_classes_without_images_and_images_without_labels() -> None:
    x, y = _blobs()
    y = np.where(y == 2, -1, y)
    probe = train_probe(x, y, 6, penalties=[0.01])
    assert probe.seen.tolist() == [True, True, False, True, False, False]
    assert probe.bias[2] == NEVER
    p = probe.logits(torch.from_numpy(x)).softmax(1)
    assert not p[:, [2, 4, 5]].any()
    assert np.isfinite(np.float16(NEVER))


def test_a_constant_channel_has_no_weight() -> None:
    x, y = _blobs()
    x[:, 3] = 7.1
    probe = train_probe(x, y, 4, penalties=[0.01])
    assert not probe.weight[:, 3].any()
    assert torch.isfinite(probe.weight).all()


def test_one_image_per_class_still_trains() -> None:
    probe = train_probe(np.eye(3), [0, 1, 2], 3)
    assert probe.logits(torch.eye(3)).argmax(1).tolist() == [0, 1, 2]
    assert np.isnan(probe.held_out_loss)


@pytest.mark.parametrize(
    ("labels", "value", "says"),
    [
        ([0, 9], 1.0, r"label 9 is outside 0\.\.3"),
        ([-1, -1], 1.0, "no image has a label"),
        ([0, 1], np.nan, "NaN"),
    ],
)
def test_bad_data_is_refused(labels: list[int], value: float, says: str) -> None:
    with pytest.raises(DataError, match=says):
        train_probe(np.array([[0.0], [value]]), labels, 4)


def test_files_bring_the_probe_back(tmp_path: Path) -> None:
    x, y = _blobs(40)
    few = [0.1, 0.01]
    for probe in (train_probe(x, y, 5, penalties=few), train_probe(np.eye(3), [0, 1, 2], 3)):
        probe.save(tmp_path)
        again = Probe.load(tmp_path)
        assert torch.equal(again.weight, probe.weight)
        assert torch.equal(again.seen, probe.seen)
        assert again.penalty == probe.penalty


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable probe"):
        Probe.load(tmp_path)
    train_probe(np.eye(3), [0, 1, 2], 3).save(tmp_path)
    weights = tmp_path / "probe.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(DataError, match="not a readable probe"):
        Probe.load(tmp_path)
