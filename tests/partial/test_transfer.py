"""IST and the thresholds (DTL) against direct loops; thresholds that move and stay in range."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from relabel.partial.networks import memory
from relabel.partial.networks.graph import label_cooccurrence
from relabel.partial.networks.transfer import STEP, IntraImage, Thresholds, complement
from tests.partial.peak import Peak

B, C, D, M = 4, 5, 6, 7


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Class features and labels; class 4 is never known present, image 3 shows nothing known."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(B, C, D, generator=generator)
    known = torch.randint(-1, 2, (B, C), generator=generator).to(torch.int8)
    known[0, :4] = torch.tensor([1, 1, 0, -1])
    known[1, :4] = torch.tensor([0, 1, 0, 0])
    known[:, 4] = known[:, 4].clamp(max=0)
    known[3] = known[3].clamp(max=0)
    return features, known


def module(seed: int = 1) -> IntraImage:
    torch.manual_seed(seed)
    ist = IntraImage(D, torch.rand(C, C), hidden=M)
    with torch.no_grad():
        for p in ist.parameters():
            p += 0.3 * torch.randn_like(p)
    return ist


@torch.no_grad()
def pair_logit(ist: IntraImage, features: Tensor, b: int, i: int, j: int) -> float:
    """The concatenated form: one layer over both projections, a weight and a bias per pair."""
    both = torch.cat([ist.project(features[b, i]), ist.project(features[b, j])])
    layer = torch.cat([ist.given.weight, ist.other.weight], dim=1)
    hidden = torch.relu(layer @ both + ist.given.bias)
    weight = ist.weight + ist.given_weight[i] * ist.other_weight[j]
    return float(weight @ hidden + ist.bias[i, j])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def p_loop(ist: IntraImage, features: Tensor) -> np.ndarray:
    p = np.ones((len(features), C, C))
    for b in range(len(features)):
        for i in range(C):
            for j in range(C):
                if i != j:
                    p[b, i, j] = sigmoid(pair_logit(ist, features, b, i, j))
    return p


@pytest.mark.parametrize("piece", [1, 1 << 24])
def test_scores_within_an_image(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PIECE", piece)
    ist, (features, known) = module(), batch()
    p = p_loop(ist, features)
    assert np.allclose(ist.matrix(features), p, atol=1e-5)
    expected, without, compared = (np.zeros((B, C)) for _ in range(3))
    for b in range(B):
        present = [i for i in range(C) if known[b, i] == 1]
        for c in range(C):
            if present:
                expected[b, c] = sum(p[b, i, c] for i in present) / len(present)
            others = [i for i in present if i != c]
            if others:
                without[b, c] = sum(p[b, i, c] for i in others) / len(others)
                compared[b, c] = known[b, c]
    pairs = ist(features, known)
    assert np.allclose(pairs.scores(B).detach(), expected, atol=1e-5)
    scores, labels = pairs.held_out(known)
    assert np.allclose(scores.detach(), without, atol=1e-5)
    assert np.array_equal(labels, compared) and labels.dtype == known.dtype
    # What the two differ in: known present ones. Image 1 has only one of them.
    assert labels[1, 1] == 0 and labels[0, 1] == 1 and expected[1, 1] == 1
    unknown = known.numpy() == 0
    assert np.allclose(expected[unknown], without[unknown])
    assert not expected[3].any()


def test_the_loss_of_pairs() -> None:
    ist, (features, known) = module(), batch(3)
    total, count = 0.0, 0
    for b in range(B):
        for i in range(C):
            for j in range(C):
                if known[b, i] != 1 or i == j or known[b, j] == 0:
                    continue
                p = sigmoid(pair_logit(ist, features, b, i, j))
                if known[b, j] == 1:
                    total -= (1 - p) * math.log(p)
                else:
                    q = max(p - 0.05, 0)
                    total -= q**2 * math.log(1 - q)
                count += 1
    assert count > 5
    assert ist(features, known).loss(known).item() == pytest.approx(total / count, rel=1e-4)


def test_pieces_do_not_change_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    ist, (features, known) = module(), batch(5)
    gradients = []
    for piece in (1, 1 << 24):
        monkeypatch.setattr(memory, "PIECE", piece)
        ist.zero_grad()
        pairs = ist(features, known)
        (pairs.loss(known) + pairs.scores(B).sum()).backward()
        gradients.append([p.grad for p in ist.parameters()])
    for one, whole in zip(*gradients, strict=True):
        assert one is not None and whole is not None and whole.any()
        assert torch.allclose(one, whole, rtol=1e-4, atol=1e-6)


def test_pairs_start_at_the_statistical_cooccurrence_and_become_the_images_own() -> None:
    """Class 1 goes with class 0 only where the image looks so; on the whole in half of them."""
    generator = torch.Generator().manual_seed(7)
    looks = torch.rand(200, generator=generator) < 0.5
    features = 0.2 * torch.randn(200, 3, D, generator=generator)
    features[:, 1, 0] += looks.float()
    known = torch.full((200, 3), -1, dtype=torch.int8)
    known[:, 0] = 1
    known[looks, 1] = 1
    torch.manual_seed(8)
    ist = IntraImage(D, torch.from_numpy(label_cooccurrence(known.numpy())), hidden=16)
    assert torch.sigmoid(ist.bias[0]).tolist() == pytest.approx(
        [0.99, float(looks.float().mean()), 0.01], abs=1e-5
    )
    # Half of class 1's labels are hidden; what is learned from the others holds for these.
    shown = known.clone()
    shown[:100, 1] = 0
    optimizer = torch.optim.Adam(ist.parameters(), lr=0.01)
    for _ in range(80):
        loss = ist(features, shown).loss(shown)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hidden = ist(features, shown).scores(200).detach()[:100, 1]
    with_it, without = hidden[looks[:100]], hidden[~looks[:100]]
    assert (with_it[:, None] > without).float().mean() > 0.95


@pytest.mark.parametrize("value", [-1, 0, 1])
@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 4), (3, 4)])
def test_extremes_give_no_nan(value: int, size: tuple[int, int]) -> None:
    b, c = size
    known = torch.full(size, value, dtype=torch.int8)
    ist = IntraImage(D, torch.from_numpy(label_cooccurrence(known.numpy())), hidden=3)
    thresholds = Thresholds(c)
    features = torch.zeros(b, c, D, requires_grad=True)
    pairs = ist(features, known)
    assert pairs.logits.shape == (b * c if value == 1 else 0, c)
    loss = pairs.loss(known) + thresholds.loss(*pairs.held_out(known))
    loss = loss + thresholds.loss(pairs.scores(b), known)
    loss.backward()
    gradients = [p.grad for p in (*ist.parameters(), *thresholds.parameters(), features)]
    assert loss.isfinite() and all(g is None or g.isfinite().all() for g in gradients)
    assert ist.matrix(features).isfinite().all()


def test_memory_of_a_thousand_classes_is_that_of_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs' hidden values are 6.4e7 floats, those of the rows 1.6e7; a piece here is 2e5."""
    classes, m = 1000, 32
    monkeypatch.setattr(memory, "PIECE", 200_000)
    torch.manual_seed(9)
    ist = IntraImage(4, torch.zeros(classes, classes), hidden=m)
    known = torch.full((2, classes), -1, dtype=torch.int8)
    known[:, ::4] = 1
    features = torch.randn(2, classes, 4)
    pair_bias = classes * classes
    with Peak() as peak:
        pairs = ist(features, known)
        rows = len(pairs.image)
        (pairs.loss(known) + pairs.scores(2).sum()).backward()
    assert rows == 500
    # The bias of each pair has a gradient, gathered row by row before it is summed; a dozen
    # values of the rows' logits; six of a piece.
    assert peak.largest == pair_bias
    assert peak.total < 3 * pair_bias + 12 * rows * classes + 6 * memory.PIECE
    assert peak.total < rows * classes * m


def test_thresholds_by_a_loop() -> None:
    torch.manual_seed(10)
    thresholds = Thresholds(C)
    thresholds.raw.data = torch.rand(C)
    scores, (_, known) = torch.rand(B, C), batch(11)
    total, count = 0.0, 0
    for b in range(B):
        for c in range(C):
            above = sigmoid((scores[b, c].item() - thresholds.values[c].item()) / STEP)
            if known[b, c] != 0:
                total -= math.log(above if known[b, c] == 1 else 1 - above)
                count += 1
    assert thresholds.loss(scores, known).item() == pytest.approx(total / count, rel=1e-3)


def test_complement_by_a_loop() -> None:
    scores, (_, known) = torch.rand(B, C), batch(12)
    threshold = torch.tensor([0.2, 0.5, 0.8, 0.0, 1.0])
    for limit in (threshold, 0.4):
        done = complement(known, scores, limit)
        for b in range(B):
            for c in range(C):
                limit_c = float(torch.as_tensor(limit).expand(C)[c])
                taken = known[b, c] == 0 and scores[b, c] > limit_c
                assert done[b, c] == (1 if taken else known[b, c])
        assert done.dtype == known.dtype and (done != known).any()


def learn(scores: Tensor, known: Tensor, lr: float, steps: int) -> tuple[Thresholds, list[Tensor]]:
    thresholds = Thresholds(scores.shape[1])
    optimizer = torch.optim.Adam(thresholds.parameters(), lr=lr)
    way = []
    for _ in range(steps):
        optimizer.zero_grad()
        thresholds.loss(scores, known).backward()
        optimizer.step()
        way.append(thresholds.values.clone())
    return thresholds, way


def test_thresholds_move_to_between_absent_and_present() -> None:
    """From 1, where the published clamp has no gradient, each to its own class's place."""
    generator = torch.Generator().manual_seed(13)
    known = torch.where(torch.rand(400, 5, generator=generator) < 0.2, 1, -1).to(torch.int8)
    low, high = torch.tensor([0.1, 0.3, 0.6, 0.2, 0.5]), torch.tensor([0.4, 0.8, 0.9, 0.9, 0.9])
    scores = torch.where(known > 0, high, low) + 0.02 * torch.randn(400, 5, generator=generator)
    known[:, 3] = -1  # never known present
    known[:, 4] = 0  # nothing known
    published = (scores - 1.0).clamp(0, 1)
    assert not published.any()
    thresholds, way = learn(scores, known, lr=0.01, steps=300)
    values = thresholds.values
    assert ((values[:3] > low[:3] + 0.05) & (values[:3] < high[:3] - 0.05)).all()
    right = complement(torch.zeros_like(known), scores, values)[:, :3] == (known[:, :3] > 0)
    assert right.float().mean() > 0.99
    assert values[3] == 1 and values[4] == 1
    assert all(((v >= 0) & (v <= 1)).all() for v in way)
    # As many score above as are present, counted with the soft step.
    above = torch.sigmoid(thresholds(scores)).sum(dim=0)[:3]
    assert torch.allclose(above, (known > 0).sum(dim=0)[:3].float(), rtol=0.05)


@pytest.mark.parametrize("present", [0.0, 0.5, 1.0])
def test_thresholds_stay_in_range_at_any_learning_rate_and_come_back(present: float) -> None:
    generator = torch.Generator().manual_seed(14)
    known = torch.where(torch.rand(50, 4, generator=generator) < present, 1, -1).to(torch.int8)
    scores = torch.rand(50, 4, generator=generator)
    thresholds, way = learn(scores, known, lr=5.0, steps=50)
    assert all(((v >= 0) & (v <= 1)).all() for v in way)
    end = {0.0: 1.0, 1.0: 0.0}.get(present)
    assert end is None or (thresholds.values == end).all()
    # A range left by a large step is not a long way back.
    optimizer = torch.optim.SGD(thresholds.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        thresholds.loss(scores, -known).backward()
        optimizer.step()
    assert end is None or (thresholds.values != end).all()
