"""Blending (SARB) and saliency (SR) against direct loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from relabel.partial.losses import partial_bce
from relabel.partial.networks.blending import Blending
from relabel.partial.networks.prototypes import Examples, Prototypes
from relabel.partial.networks.saliency import ALPHA, TOP, Saliency, consistent_labels

B, C, D = 5, 4, 3


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(B, C, D, generator=generator)
    known = torch.randint(-1, 2, (B, C), generator=generator).to(torch.int8)
    known[0] = torch.tensor([0, 0, 1, -1])
    known[B - 1] = torch.tensor([1, -1, 0, 0])
    return features, known


def fitted(seen: list[int]) -> Prototypes:
    examples, prototypes = Examples(C, D), Prototypes(C, D)
    known = torch.full((30, C), -1, dtype=torch.int8)
    known[:, seen] = 1
    examples.add(torch.randn(30, C, D, generator=torch.Generator().manual_seed(9)), known)
    prototypes.fit(examples, seed=0)
    return prototypes


def test_blending_of_instances() -> None:
    blending, (features, known) = Blending(), batch()
    blending.raw_alpha.data.fill_(0.3)
    mixed, labels = blending.instances(features, known)
    blended = 0
    for b in range(B):
        for c in range(C):
            other = B - 1 - b
            if known[b, c] == 0 and known[other, c] == 1:
                expected = 0.3 * features[b, c] + 0.7 * features[other, c]
                assert labels[b, c].item() == pytest.approx(0.7)
                blended += 1
            else:
                expected = features[b, c]
                assert labels[b, c] == known[b, c]
            assert torch.allclose(mixed[b, c], expected, atol=1e-6)
    assert blended >= 2


def test_blending_with_prototypes() -> None:
    blending, prototypes = Blending(), fitted([0, 1, 2])
    blending.raw_beta.data.fill_(0.4)
    features, known = batch()
    known[1] = torch.tensor([1, -1, 1, 0])  # unknown only where there is no prototype
    known[2] = torch.tensor([1, -1, 1, -1])  # nothing unknown
    known[3] = torch.tensor([0, 0, 0, 0])
    generator, drawn = torch.Generator().manual_seed(1), set()
    for _ in range(40):
        mixed, labels = blending.prototypes(features, known, prototypes, generator)
        changed = labels != known
        assert changed.sum(dim=1).tolist() == [1, 0, 0, 1, 1]
        for b, c in changed.nonzero().tolist():
            assert known[b, c] == 0 and labels[b, c].item() == pytest.approx(0.6)
            possible = 0.4 * features[b, c] + 0.6 * prototypes.centres[c]
            near = (possible - mixed[b, c]).abs().amax(dim=1)
            assert near.min() < 1e-6
            drawn.add((b, c, int(near.argmin())))
        assert torch.equal(mixed[~changed], features[~changed])
    assert {c for b, c, _ in drawn if b == 3} == {0, 1, 2}
    assert len({k for b, _, k in drawn if b == 3}) > 4


def test_with_everything_known_nothing_is_blended() -> None:
    """The public implementation then blends class 0."""
    features, _ = batch()
    known = torch.where(torch.rand(B, C) < 0.5, 1, -1).to(torch.int8)
    blending = Blending()
    for mixed, labels in (
        blending.instances(features, known),
        blending.prototypes(features, known, fitted([0, 1, 2, 3])),
    ):
        assert torch.equal(mixed, features) and torch.equal(labels, known.float())


@pytest.mark.parametrize("start", [-0.5, 0.0, 0.5, 1.0, 1.5])
def test_shares_are_learned_and_stay_in_range(start: float) -> None:
    torch.manual_seed(2)
    blending, prototypes, (features, known) = Blending(), fitted([0, 1, 2, 3]), batch()
    blending.raw_alpha.data.fill_(start)
    blending.raw_beta.data.fill_(start)
    optimizer = torch.optim.SGD(blending.parameters(), lr=3.0)
    shares = []
    for _ in range(5):
        loss = features.new_zeros(())
        for mixed, labels in (
            blending.instances(features, known),
            blending.instances(features, known),  # twice before one backward pass
            blending.prototypes(features, known, prototypes),
        ):
            assert mixed.isfinite().all() and ((labels >= -1) & (labels <= 1)).all()
            loss = loss + partial_bce(mixed.sum(dim=2), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(blending.shares)
    assert all(0 <= share <= 1 for pair in shares for share in pair)
    if start == 0.5:
        assert shares[0][0] != 0.5 and shares[0][1] != 0.5


@pytest.mark.parametrize("value", [-1, 0, 1])
def test_one_image_one_class(value: int) -> None:
    known = torch.full((1, 1), value, dtype=torch.int8)
    prototypes = Prototypes(1, D)
    prototypes.fit(Examples(1, D), seed=0)  # the class was never seen
    features = torch.randn(1, 1, D)
    for mixed, labels in (
        Blending().instances(features, known),
        Blending().prototypes(features, known, prototypes),
    ):
        assert torch.equal(mixed, features) and labels.item() == value


@pytest.mark.parametrize("side", [1, 2, 4])
def test_saliency(side: int) -> None:
    torch.manual_seed(3)
    net, x = Saliency(D, C), torch.randn(B, D, side, side)
    logits, (weight, bias) = net(x), (p.detach() for p in net.head.parameters())
    for b in range(B):
        for c in range(C):
            places = sorted(
                (
                    float(weight[c, :, 0, 0] @ x[b, :, i, j] + bias[c])
                    for i in range(side)
                    for j in range(side)
                ),
                reverse=True,
            )
            top = places[: min(TOP, side * side)]
            expected = sum(places) / len(places) + ALPHA * sum(top) / len(top)
            assert logits[b, c].item() == pytest.approx(expected, abs=1e-5)


def test_salient_places_get_the_larger_gradient() -> None:
    net = Saliency(1, 1)
    net.head.weight.data.fill_(1.0)
    x = torch.arange(16.0).view(1, 1, 4, 4).requires_grad_()
    net(x).sum().backward()
    assert x.grad is not None
    expected = [1 / 16] * (16 - TOP) + [1 / 16 + ALPHA / TOP] * TOP
    assert x.grad.flatten().tolist() == pytest.approx(expected)


def test_labels_from_the_weak_view() -> None:
    weak = torch.linspace(-2, 2, B * C).view(B, C).requires_grad_()
    _, known = batch()
    said = consistent_labels(weak, known)
    for b in range(B):
        for c in range(C):
            p = 1 / (1 + math.exp(-weak[b, c].item()))
            expected = 0 if known[b, c] != 0 else p
            assert said[b, c].item() == pytest.approx(expected)
    assert not said.requires_grad and (known == 0).any() and (known != 0).any()
