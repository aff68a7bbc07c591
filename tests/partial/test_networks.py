"""Networks against direct loops, and the memory they take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

from relabel.partial.networks import memory
from relabel.partial.networks.graph import STEPS, GatedGraph, label_cooccurrence
from relabel.partial.networks.semantic import ClassLinear, Pooled, SemanticAware, SemanticDecoupling
from tests.partial.peak import Peak

B, C, D, H, W = 3, 5, 6, 4, 2


def maps(seed: int = 0, b: int = B, d: int = D) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, d, H, W, generator=generator)


def embeddings(c: int = C) -> Tensor:
    return torch.randn(c, 3, generator=torch.Generator().manual_seed(c))


def decoupled_loop(net: SemanticDecoupling, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Class features [B, C, d] and attention [B, C, HW], place by place."""
    image, word, score = (m.weight.detach().numpy() for m in (net.image, net.word, net.score))
    b, d, places = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    values = x.numpy().reshape(b, d, places)
    features, attention = np.zeros((b, C, d)), np.zeros((b, C, places))
    for i in range(b):
        for c in range(C):
            for p in range(places):
                w = word @ net.embeddings[c].detach().numpy()
                attention[i, c, p] = score[0] @ np.tanh((image @ values[i, :, p]) * w)
            attention[i, c] = np.exp(attention[i, c]) / np.exp(attention[i, c]).sum()
            for p in range(places):
                features[i, c] += attention[i, c, p] * values[i, :, p]
    return features, attention


@pytest.mark.parametrize("piece", [1, 2 * B * H * W * 7, 1 << 24])
def test_semantic_decoupling(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of one class, of two (the last has one) and whole."""
    monkeypatch.setattr(memory, "PIECE", piece)
    torch.manual_seed(1)
    net = SemanticDecoupling(D, 3 * embeddings(), hidden=7)
    x = 2 * maps()
    features, attention = decoupled_loop(net, x)
    assert np.allclose(net(x).detach(), features, atol=1e-5)
    assert np.allclose(net.attention(x).detach().flatten(2), attention, atol=1e-6)
    assert attention.std() > 0.02


def test_two_linear_layers_after_the_tanh_are_one() -> None:
    """The public form: two layers with biases, then the softmax over places."""
    torch.manual_seed(2)
    net = SemanticDecoupling(D, embeddings(), hidden=7)
    third, fourth = torch.nn.Linear(7, 7), torch.nn.Linear(7, 1)
    net.score.weight.data = fourth.weight.data @ third.weight.data
    x = maps().flatten(2).transpose(1, 2)
    both = torch.tanh(net.image(x)[:, :, None] * net.word(net.embeddings))
    expected = fourth(third(both)).squeeze(3).softmax(dim=1).transpose(1, 2) @ x
    assert torch.allclose(net(maps()), expected, atol=1e-6)


def test_pieces_change_neither_logits_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    net = SemanticAware(D, embeddings(), torch.rand(C, C), width=8, hidden=7, learned=True)
    results = []
    for piece in (1 << 24, 1):
        monkeypatch.setattr(memory, "PIECE", piece)
        net.zero_grad()
        x = maps().requires_grad_()
        logits, features = net(x)
        (logits.square().sum() + features.square().sum()).backward()
        gradients = [p.grad for p in net.parameters()] + [x.grad]
        results.append([logits, features, *(g for g in gradients if g is not None)])
        assert len(results[-1]) == 2 + len(list(net.parameters())) + 1
    for whole, in_pieces in zip(*results, strict=True):
        assert torch.allclose(whole, in_pieces, rtol=1e-4, atol=1e-5)


def decoupling_peak(classes: int, b: int, m: int) -> Peak:
    net = SemanticDecoupling(m, embeddings(classes), hidden=m, learned=True)
    x = maps(b=b, d=m)
    with Peak() as peak:
        net(x).square().sum().backward()
    return peak


def test_memory_of_semantic_decoupling_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five values of a piece at once, and what is as large as maps, scores and class features.

    At COCO size (80 classes, 32 images, 14 x 14, 1024 channels, `hidden` 512) that is about
    0.55 GB; 0.53 GB was measured of the process, forward and backward.
    """
    b, m = 2, 32
    monkeypatch.setattr(memory, "PIECE", 4 * b * H * W * m)
    for classes in (40, 80):
        peak = decoupling_peak(classes, b, m)
        image, scores, features = b * H * W * m, b * H * W * classes, b * classes * m
        weights = 2 * (m * m + m * classes + 3 * m + 3 * classes + m)
        bound = 5 * memory.PIECE + 6 * image + 8 * scores + 3 * features + weights
        assert peak.total < bound < b * H * W * m * classes * 2
        assert peak.largest == max(memory.PIECE, features)
    # Without pieces the tanh alone is larger than all that.
    monkeypatch.setattr(memory, "PIECE", 1 << 24)
    assert decoupling_peak(80, b, m).total > b * H * W * m * 80 * 2


def test_memory_of_the_graph_is_that_of_a_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole it keeps thirty values as large as the features; in pieces, that of four images."""
    net = SemanticAware(D, embeddings(), torch.rand(C, C), width=16, hidden=4)
    features = torch.randn(128, C, 16, requires_grad=True)
    totals = {}
    for images in (4, 128):
        monkeypatch.setattr(memory, "PIECE", images * C * 16 * 10 * STEPS)
        with Peak() as peak:
            net.classify(features).square().sum().backward()
        totals[images] = peak.total
    weights = sum(p.numel() for p in net.parameters())
    assert totals[4] < 4 * features.numel() + 2 * weights < 20 * features.numel() < totals[128]


def test_pooled_and_class_linear() -> None:
    x, net = maps(), Pooled(D, C)
    mean = torch.stack([torch.stack([channel.mean() for channel in image]) for image in x])
    assert torch.allclose(net(x), net.linear(mean), atol=1e-6)
    assert torch.equal(net(mean), net.linear(mean))
    features, linear = torch.randn(B, C, D), ClassLinear(C, D)
    for i in range(B):
        for c in range(C):
            expected = features[i, c] @ linear.weight[c] + linear.bias[c]
            assert linear(features)[i, c].item() == pytest.approx(expected.item(), abs=1e-6)


def test_gated_graph() -> None:
    """The gates of each class, one at a time, as in a GRU whose input is its neighbours."""
    torch.manual_seed(4)
    d, adjacency = 3, torch.rand(C, C)
    net = GatedGraph(d, adjacency)
    start = torch.randn(1, C, d)
    h = start[0].clone()
    for _ in range(STEPS):
        new = torch.zeros_like(h)
        for i in range(C):
            along = sum(adjacency[i, j] * h[j] for j in range(C))
            back = sum(adjacency[j, i] * h[j] for j in range(C))
            message = net.message(torch.cat([torch.as_tensor(along), torch.as_tensor(back)]))
            state = net.state(h[i])
            update = torch.sigmoid(message[:d] + state[:d])
            reset = torch.sigmoid(message[d : 2 * d] + state[d:])
            candidate = torch.tanh(message[2 * d :] + net.candidate(reset * h[i]))
            new[i] = (1 - update) * h[i] + update * candidate
        h = new
    assert torch.allclose(net(start)[0], h, atol=1e-5)


KNOWN = np.array(
    [
        [1, 1, -1, 0, 0],
        [1, -1, 0, 0, -1],
        [1, 0, 1, 0, -1],
        [0, 1, 1, 0, 0],
        [-1, 1, 0, 0, -1],
    ],
    dtype=np.int8,
)


def test_cooccurrence_by_hand() -> None:
    """Class 3 is never known, class 4 never present."""
    expected = [
        [1, 1 / 2, 1 / 2, 0, 0],
        [1 / 2, 1, 1 / 2, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert np.allclose(label_cooccurrence(KNOWN), expected)
    assert np.array_equal(label_cooccurrence(csr_array(KNOWN)), label_cooccurrence(KNOWN))


def test_cooccurrence_of_all_known_and_of_present_only_is_the_public_one() -> None:
    full = np.where(np.random.default_rng(0).random((60, C)) < 0.4, 1, -1).astype(np.int8)
    expected = np.zeros((C, C))
    for image in full:
        for i in np.flatnonzero(image == 1):
            for j in np.flatnonzero(image == 1):
                expected[i, j] += 1
    expected /= expected.diagonal()[:, None]
    assert np.allclose(label_cooccurrence(full), expected)
    assert np.allclose(label_cooccurrence(np.maximum(full, 0)), expected)


def test_cooccurrence_does_not_shrink_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    base = rng.random((20_000, 1)) < 0.5
    full = np.where(rng.random((20_000, C)) < np.where(base, 0.5, 0.05), 1, -1).astype(np.int8)
    hidden = np.where(rng.random(full.shape) < 0.2, full, 0)
    truth = label_cooccurrence(full)
    assert np.abs(label_cooccurrence(hidden) - truth).max() < 0.1
    monkeypatch.setattr("relabel.partial.networks.graph.ROWS", 7)
    assert np.array_equal(label_cooccurrence(full[:50]), label_cooccurrence(csr_array(full[:50])))


def test_smoothing_draws_pairs_to_the_share_of_the_class() -> None:
    smooth = label_cooccurrence(KNOWN, smoothing=2)
    # Class 1 where class 0 is: 1 of 2; class 1 is present in 3 of the 4 where it is known.
    assert smooth[0, 1] == pytest.approx((1 + 2 * 3 / 4) / (2 + 2))
    assert smooth[3, 1] == pytest.approx(3 / 4) and smooth[3, 3] == 0


@pytest.mark.parametrize(("b", "classes"), [(1, 1), (4, 1), (1, 6), (4, 6)])
def test_one_class_one_image_and_classes_never_seen(b: int, classes: int) -> None:
    known = np.zeros((b, classes), dtype=np.int8)
    known[:, : classes // 2] = -1
    adjacency = torch.from_numpy(label_cooccurrence(known))
    assert not adjacency.any()
    net = SemanticAware(D, embeddings(classes), adjacency, width=4, hidden=4)
    logits, features = net(maps(b=b))
    assert logits.shape == (b, classes) and features.shape == (b, classes, 4)
    logits.sum().backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert len(gradients) == len([p for p in net.parameters() if p.requires_grad])
    assert all(g.isfinite().all() for g in gradients)


def test_classes_are_told_apart_by_where_they_look() -> None:
    """Two objects in one image, each in its own place: SARL learns both, and learns to look."""
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(6)
    labels = torch.where(torch.rand(64, 4, generator=generator) < 0.5, 1, -1)
    x = 0.3 * torch.randn(64, 8, H, W, generator=generator)
    place = torch.randint(0, H * W, (64, 4), generator=generator)
    for i in range(64):
        for c in range(4):
            if labels[i, c] > 0:
                x[i, c, place[i, c] // W, place[i, c] % W] += 2
    net = SemanticAware(8, torch.randn(4, 6), torch.eye(4), width=16, hidden=16, learned=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        logits, _ = net(x[:48])
        optimizer.zero_grad()
        torch.nn.functional.softplus(-labels[:48] * logits).mean().backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        right = (net(x[48:])[0].sign() == labels[48:]).float().mean()
        attention = net.decoupling.attention(net.reduce(x[48:])).flatten(2)
    assert right > 0.85
    present = labels[48:] > 0
    on_object = attention.gather(2, place[48:, :, None]).squeeze(2)[present].mean()
    assert on_object > 1.5 / (H * W)
