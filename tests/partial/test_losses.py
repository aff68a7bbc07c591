"""Every loss against a direct loop over images and classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from relabel.partial.losses import (
    asymmetric,
    instance_contrast,
    partial_bce,
    prototype_contrast,
    selective,
)

B, C = 7, 6
PRIOR = torch.tensor([0.01, 0.5, 0.03, 0.04, 0.2, 0.049])


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, C, generator=generator, dtype=torch.float64)
    known = torch.randint(-1, 2, (B, C), generator=generator).to(torch.int8)
    return logits.requires_grad_(), known


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bce_loop(logits: np.ndarray, known: np.ndarray) -> tuple[float, int]:
    total, count = 0.0, 0
    for b in range(len(logits)):
        for c in range(logits.shape[1]):
            p, y = sigmoid(logits[b, c]), float(known[b, c])
            if y > 0:
                total -= y * math.log(p) + (1 - y) * math.log(1 - p)
            elif y < 0:
                total -= -y * math.log(1 - p) + (1 + y) * math.log(p)
            count += y != 0
    return total, count


def test_partial_bce() -> None:
    logits, known = batch()
    total, count = bce_loop(logits.detach().numpy(), known.numpy())
    assert 0 < count < B * C
    assert partial_bce(logits, known).item() == pytest.approx(total / count)
    assert partial_bce(logits, known, "none").item() == pytest.approx(total / (B * C))


def test_partial_bce_of_soft_targets_and_their_gradient() -> None:
    logits, known = batch(1)
    soft = (known.double() * torch.rand(B, C, dtype=torch.float64)).requires_grad_()
    total, count = bce_loop(logits.detach().numpy(), soft.detach().numpy())
    assert partial_bce(logits, soft).item() == pytest.approx(total / count)
    # -0.3 is absent with probability 0.3, that is present with 0.7.
    one = torch.tensor([[0.4]])
    there, not_there = (partial_bce(one, torch.tensor([[y]])) for y in (0.7, -0.3))
    assert there.item() == pytest.approx(not_there.item())
    partial_bce(logits, soft).backward()
    assert soft.grad is not None and soft.grad[known != 0].abs().min() > 0
    assert not soft.grad[known == 0].any()


def test_at_a_tenth_known_the_mean_over_known_labels_is_ten_times_the_mean_over_all() -> None:
    logits = torch.randn(10, 10)
    known = torch.zeros(10, 10, dtype=torch.int8)
    known.view(-1)[::10] = 1
    ratio = partial_bce(logits, known) / partial_bce(logits, known, "none")
    assert ratio.item() == pytest.approx(10)


@pytest.mark.parametrize(("gamma_neg", "gamma_pos", "clip"), [(2, 1, 0.05), (4, 0, 0.2), (0, 0, 0)])
def test_asymmetric(gamma_neg: float, gamma_pos: float, clip: float) -> None:
    logits, known = batch(2)
    total, count = 0.0, 0
    for b in range(B):
        for c in range(C):
            p = sigmoid(logits[b, c].item())
            if known[b, c] == 1:
                total -= (1 - p) ** gamma_pos * math.log(p)
            elif known[b, c] == -1:
                q = max(p - clip, 0)
                total -= q**gamma_neg * math.log(1 - q)
            count += int(known[b, c] != 0)
    loss = asymmetric(logits, known, gamma_neg, gamma_pos, clip)
    assert loss.item() == pytest.approx(total / count)
    if (gamma_neg, gamma_pos, clip) == (0, 0, 0):
        assert loss.item() == pytest.approx(partial_bce(logits, known).item())


def test_asymmetric_costs_nothing_where_an_absent_label_is_below_the_clip() -> None:
    logits = torch.tensor([[-3.5, -2.0]], requires_grad=True)
    asymmetric(logits, torch.tensor([[-1, -1]])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] == 0 and logits.grad[0, 1] > 0


@pytest.mark.parametrize("likely", [0, 1, 2, 100])
def test_selective(likely: int) -> None:
    logits, known = batch(3)
    unknown = [(b, c) for b in range(B) for c in range(C) if known[b, c] == 0]
    unknown.sort(key=lambda entry: -logits[entry].item())
    left_out = set(unknown[: likely * B])
    total, count = 0.0, 0
    for b in range(B):
        for c in range(C):
            p = sigmoid(logits[b, c].item())
            if known[b, c] == 1:
                total -= (1 - p) ** 0.5 * math.log(p)
            elif known[b, c] == -1:
                total -= p * math.log(1 - p)
            elif PRIOR[c] <= 0.05 and (b, c) not in left_out:
                total -= p**2 * math.log(1 - p)
            else:
                continue
            count += 1
    loss = selective(logits, known, PRIOR, gamma_pos=0.5, likely=likely)
    assert loss.item() == pytest.approx(total / count)


def test_no_gradient_flows_through_the_weights_of_the_selective_loss() -> None:
    logits = torch.tensor([[0.3]], requires_grad=True)
    selective(logits, torch.tensor([[-1]]), torch.tensor([0.01]), likely=0).backward()
    p = sigmoid(0.3)
    assert logits.grad is not None and logits.grad.item() == pytest.approx(p * p)


def contrast_loop(features: np.ndarray, known: np.ndarray) -> float:
    """The public rule; of a set, n drawn pairs contribute n times the set's mean."""
    sets: dict[str, list[float]] = {"both": [], "mixed": [], "neither": []}
    for c in range(features.shape[1]):
        for i, j in combinations(range(len(features)), 2):
            x, y = features[i, c], features[j, c]
            cosine = float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
            labels = {int(known[i, c]), int(known[j, c])}
            if labels == {1}:
                sets["both"].append(1 - cosine)
            elif labels == {1, -1}:
                sets["mixed"].append(1 + cosine)
            elif labels == {-1}:
                sets["neither"].append(1 + cosine)
    n = len(sets["both"])
    total, count = sum(sets["both"]), n
    for name in ("mixed", "neither"):
        apart = sorted(sets[name], reverse=True)
        if n and apart:
            drawn = min(2 * n, len(apart))
            total += drawn * sum(apart) / len(apart) + sum(apart[:n])
            count += drawn + len(apart[:n])
        else:
            total, count = total + sum(apart), count + len(apart)
    return total / max(count, 1)


@pytest.mark.parametrize("present", [0.0, 0.2, 0.6, 1.0])
def test_instance_contrast(present: float) -> None:
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(B, C, 5, generator=generator, dtype=torch.float64)
    draw = torch.rand(B, C, generator=generator)
    known = torch.where(draw < present, 1, -1)
    known[torch.rand(B, C, generator=generator) < 0.3] = 0
    expected = contrast_loop(features.numpy(), known.numpy())
    assert instance_contrast(features, known).item() == pytest.approx(expected)


def test_prototype_contrast_draws_the_present_near_and_the_absent_away() -> None:
    similarity = torch.tensor([[0.9, 0.2, -0.4]], requires_grad=True)
    known = torch.tensor([[1, -1, 0]], dtype=torch.int8)
    loss = prototype_contrast(similarity, known)
    assert loss.item() == pytest.approx(((1 - 0.9) + (1 + 0.2)) / 2)
    loss.backward()
    assert similarity.grad is not None
    assert similarity.grad[0].tolist() == pytest.approx([-0.5, 0.5, 0])


ALL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": partial_bce,
    "asymmetric": asymmetric,
    "asymmetric without clip": lambda x, y: asymmetric(x, y, clip=0),
    "selective": lambda x, y: selective(x, y, torch.full((x.shape[1],), 0.01)),
    "instances": lambda x, y: instance_contrast(x[:, :, None] * torch.ones(3), y),
    "prototypes": prototype_contrast,
}


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
@pytest.mark.parametrize("value", [-1, 0, 1])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1), (3, 4)])
def test_extremes_give_no_nan(
    loss: Callable[[Tensor, Tensor], Tensor], value: int, size: tuple[int, int]
) -> None:
    """Nothing known, all present, all absent; one image, one class; logits far out, and zero."""
    known = torch.full(size, value, dtype=torch.int8)
    for extreme in (-200.0, 0.0, 200.0):
        logits = torch.full(size, extreme, requires_grad=True)
        result = loss(logits, known)
        result.backward()
        assert result.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
        if value == 0 and loss is not ALL["selective"]:
            assert result == 0 and not logits.grad.any()
