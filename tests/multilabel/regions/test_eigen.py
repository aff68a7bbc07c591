"""The graph's products and the eigenvector, against SciPy's dense solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from relabel.errors import ConfigError, DataError
from relabel.multilabel.regions import eigen
from relabel.multilabel.regions.graph import DenseGraph, PackedGraph, patch_graph
from tests.multilabel.regions.dense import (
    affinity,
    clusters,
    eigenpairs,
    iou,
    second_eigenvector,
    upsampled,
)

CASES = {
    "clusters": (clusters(300, 5, 16, 0.6, 0), 0.3),
    "tight clusters": (clusters(256, 4, 32, 0.2, 1), 0.5),
    "disconnected clusters": (clusters(200, 3, 64, 0.1, 2), 0.8),
    "noise": (torch.randn(300, 8, generator=torch.Generator().manual_seed(3)), 0.2),
    "noise, negative tau": (torch.randn(150, 6, generator=torch.Generator().manual_seed(4)), -0.3),
    "smooth": (upsampled(18, 5, 12, 5).flatten(0, 1), 0.4),
    "smooth, like a mesh": (upsampled(18, 5, 12, 6).flatten(0, 1), 0.8),
    "double precision": (clusters(120, 3, 8, 0.5, 7).double(), 0.5),
    "bf16": (clusters(120, 3, 8, 0.5, 8).bfloat16(), 0.5),
    "more patches than one block": (clusters(700, 4, 24, 0.7, 9), 0.25),
    "many channels": (clusters(160, 4, 600, 1.0, 10), 0.4),
}


def _with_zero_rows(features: torch.Tensor, every: int) -> torch.Tensor:
    out = features.clone()
    out[::every] = 0
    return out


CASES["zero rows"] = (_with_zero_rows(CASES["clusters"][0], 7), 0.3)
CASES["mostly zero rows"] = (_with_zero_rows(_with_zero_rows(CASES["smooth"][0], 2), 3), 0.4)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_answer(name: str) -> None:
    features, tau = CASES[name]
    vector = second_eigenvector(features, tau)
    d, values, vectors = eigenpairs(features, tau)
    assert values[2] - values[1] > 1e-9, "the case itself must have one answer"
    expected = vectors[:, 1]
    v = vector.numpy()
    assert vector.dtype == torch.float64
    assert v @ d @ v == pytest.approx(1, abs=1e-9)
    if v @ d @ expected < 0:
        expected = -expected
    error = v - expected
    assert error @ d @ error < 1e-8
    assert iou(v > v.mean(), expected > expected.mean()) >= 0.99


@given(
    patches=st.integers(2, 40),
    channels=st.integers(1, 4),
    percent=st.integers(
        -90, 95
    ),  # no tau so near a cosine, as 0 of zero rows, that rounding decides
    zeros=st.integers(0, 3),
    seed=st.integers(0, 10**6),
)
@hypothesis_settings(max_examples=60)
def test_any_small_graph(patches: int, channels: int, percent: int, zeros: int, seed: int) -> None:
    """Also where the eigenvalue is multiple: then the answer lies in the space of its vectors."""
    features = torch.randn(patches, channels, generator=torch.Generator().manual_seed(seed))
    features[:zeros] = 0
    tau = percent / 100
    v = second_eigenvector(features, tau).numpy()
    a = affinity(features, tau)
    d = a.sum(1)
    root = np.sqrt(d)
    mu = np.sort(np.linalg.eigvalsh(a / root / root[:, None]))
    u = root * v
    assert u @ u == pytest.approx(1, abs=1e-9)
    assert abs(u @ root) / np.linalg.norm(root) < 1e-9
    assert np.linalg.norm((a / root / root[:, None]) @ u - mu[-2] * u) < 1e-7


def test_other_eps() -> None:
    features, tau = CASES["clusters"]
    d, _, vectors = eigenpairs(features, tau, eps=1e-2)
    v = second_eigenvector(features, tau, eps=1e-2).numpy()
    assert abs(v @ d @ vectors[:, 1]) == pytest.approx(1, abs=1e-8)


def test_falls_back_on_lapack(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too few steps the answer is still the dense one, also with patches out of the graph."""
    features, tau = CASES["smooth, like a mesh"]
    graph = patch_graph(features[None], tau)
    inside = torch.ones(1, len(features), dtype=torch.bool)
    inside[0, 40:90] = False
    expected = eigen.second_vectors(graph, inside, 1e-5)[0]
    monkeypatch.setattr(eigen, "STEPS", 9)
    calls: list[int] = []
    dense = eigen._dense
    monkeypatch.setattr(eigen, "_dense", lambda m, i: calls.append(i) or dense(m, i))
    found = eigen.second_vectors(graph, inside, 1e-5)[0]
    assert calls == [0]
    sign = torch.sign(found @ expected)
    torch.testing.assert_close(sign * found, expected, rtol=0, atol=1e-6)
    assert not found[40:90].any()


def test_patches_out_of_the_graph() -> None:
    """As if the graph had only the others."""
    features, tau = CASES["clusters"]
    inside = torch.ones(1, len(features), dtype=torch.bool)
    inside[0, 10:60] = False
    found = eigen.second_vectors(patch_graph(features[None], tau), inside, 1e-5)[0]
    alone = second_eigenvector(features[inside[0]], tau)
    torch.testing.assert_close(found[inside[0]].abs(), alone.abs(), rtol=0, atol=1e-6)


def test_a_batch_gives_what_each_image_gives() -> None:
    """Images of easy and hard spectra together, so that some leave the batch early."""
    taus = 0.3
    images = [
        clusters(200, kinds, 16, noise, seed)
        for kinds, noise, seed in [(3, 0.3, 0), (5, 0.8, 1), (2, 0.1, 2), (6, 1.2, 3)]
    ]
    images.append(torch.ones(200, 16))  # all neighbours: exhausted at once
    batch = patch_graph(torch.stack(images), taus)
    assert isinstance(batch, DenseGraph)
    inside = torch.ones(5, 200, dtype=torch.bool)
    inside[1, :30] = False
    together = eigen.second_vectors(batch, inside, 1e-5)
    for at, features in enumerate(images):
        graph = patch_graph(features[None], taus)
        assert isinstance(graph, PackedGraph)
        alone = eigen.second_vectors(graph, inside[at : at + 1], 1e-5)[0]
        # Even the sign is the same: the same steps from the same start.
        torch.testing.assert_close(together[at], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("patches", [1, 7, 8, 9, 255, 257, 520])
def test_products(patches: int) -> None:
    generator = np.random.default_rng(patches)
    neighbours = generator.random((patches, patches)) < 0.3
    neighbours |= neighbours.T
    x = torch.from_numpy(generator.standard_normal((1, patches)))
    expected = torch.from_numpy(neighbours @ x[0].numpy())[None]
    packed = PackedGraph(neighbours)
    dense = DenseGraph(torch.from_numpy(neighbours).double()[None])
    torch.testing.assert_close(packed.times(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(dense.times(x), expected, rtol=0, atol=1e-12)
    assert (packed.matrix(0) == neighbours).all()
    assert (dense.matrix(0) == neighbours).all()


@pytest.mark.parametrize("patches, channels", [(5, 3), (300, 40), (513, 7)])
def test_neighbours_are_those_of_double_precision(patches: int, channels: int) -> None:
    features = torch.randn(patches, channels, generator=torch.Generator().manual_seed(patches))
    # tau is a cosine of the data plus or minus less than single precision can tell.
    rows = torch.nn.functional.normalize(features.double(), dim=1)
    cosine = float(rows[0] @ rows[1])
    for tau, expected in [(cosine - 1e-10, True), (cosine + 1e-10, False)]:
        found = patch_graph(features[None], tau).matrix(0)
        assert found[0, 1] == found[1, 0] == expected
        assert (found == (affinity(features, tau) == 1)).all()
        both = patch_graph(torch.stack([features, features]), tau)
        assert (both.matrix(1) == found).all()


def test_equality_with_tau_is_no_neighbourhood() -> None:
    """cos = 0.6 exactly, and the rounding of 3/5 must not decide."""
    features = torch.tensor([[1.0, 0.0], [3.0, 4.0], [6.0, 8.0], [0.0, 2.0]])
    found = patch_graph(features[None], 0.6).matrix(0)
    # cosines: row 0 with rows 1, 2: 0.6; rows 1, 2 with row 3: 0.8; rows 1 and 2: 1; 0 with 3: 0
    assert found.astype(int).tolist() == [
        [1, 0, 0, 0],
        [0, 1, 1, 1],
        [0, 1, 1, 1],
        [0, 1, 1, 1],
    ]


def test_many_cosines_at_tau() -> None:
    """One-hot rows at tau 0: all cosines are 0 or 1, so that all are close or sure."""
    features = torch.eye(3).repeat_interleave(4, 0)
    found = patch_graph(features[None], 0.0).matrix(0)
    assert (found == np.kron(np.eye(3), np.ones((4, 4))).astype(bool)).all()


def test_zero_rows_have_no_neighbours_not_even_themselves() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    expected = [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    assert patch_graph(features[None], 0.0).matrix(0).astype(int).tolist() == expected
    # 0 > -0.5: for a negative tau they are everyone's neighbours.
    assert patch_graph(features[None], -0.5).matrix(0).all()


def test_scale_of_the_features_does_not_matter() -> None:
    features, tau = CASES["clusters"]
    expected = second_eigenvector(features, tau)
    for factor in (1e-30, 1e30):
        scaled = second_eigenvector(features * factor, tau)
        torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-7)
    huge = second_eigenvector(features.double() * 1e200, tau)
    torch.testing.assert_close(huge, expected, rtol=0, atol=1e-7)


def test_two_patches() -> None:
    """v is (c, -c) with vᵀDv = 1: D = 1 + eps each, so c = 1/sqrt(2 (1 + eps))."""
    v = second_eigenvector(torch.eye(2), 0.5)
    c = (2 * (1 + 1e-5)) ** -0.5
    assert v.tolist() == pytest.approx([c, -c])


@pytest.mark.parametrize("features", [torch.ones(30, 4), torch.eye(30), torch.zeros(30, 4)])
def test_multiple_eigenvalues_give_one_fixed_vector(features: torch.Tensor) -> None:
    """All alike, none alike, all zero: any vector with Σ v = 0 is right, as all degrees are one."""
    v = second_eigenvector(features, 0.5)
    assert torch.isfinite(v).all()
    assert abs(float(v.sum())) < 1e-9
    degree = affinity(features, 0.5).sum(1)
    assert float((v.square() * torch.from_numpy(degree)).sum()) == pytest.approx(1)
    assert torch.equal(v, second_eigenvector(features.clone(), 0.5))


def test_sign_is_positive_at_the_first_of_the_largest() -> None:
    """Two equal halves: entries are c and -c, so only the first can decide."""
    features = torch.eye(2).repeat_interleave(20, 0)
    assert (second_eigenvector(features, 0.5)[:20] > 0).all()
    assert (second_eigenvector(features.flip(0), 0.5)[:20] > 0).all()
    # Thirty to ten: entries of the ten are larger, wherever they are.
    for order in (torch.arange(40), torch.arange(40).flip(0)):
        features = torch.eye(2).repeat_interleave(torch.tensor([30, 10]), 0)[order]
        assert ((second_eigenvector(features, 0.5) > 0) == (features[:, 1] == 1)).all()


def test_what_cannot_be_cut_is_refused() -> None:
    for bad in (float("nan"), float("inf")):
        features = torch.ones(6, 4)
        features[3, 1] = bad
        with pytest.raises(DataError, match="patch 3"):
            second_eigenvector(features, 0.5)
    for tau in (1.0, -1.1, float("nan")):
        with pytest.raises(ConfigError, match="tau"):
            second_eigenvector(torch.ones(6, 4), tau)


@pytest.mark.cuda
@pytest.mark.parametrize("name", CASES)
def test_gpu_gives_what_the_cpu_gives(name: str) -> None:
    features, tau = CASES[name]
    found = second_eigenvector(features.cuda(), tau)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), second_eigenvector(features, tau), rtol=0, atol=1e-7)
