"""CST: examples, k-means prototypes and similarities against direct loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from relabel.partial.networks.prototypes import Examples, Prototypes

B, C, D = 6, 4, 5


def batch(seed: int, b: int = B) -> tuple[Tensor, Tensor]:
    """Class 3 is never known present."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(b, C, D, generator=generator)
    known = torch.randint(-1, 2, (b, C), generator=generator).to(torch.int8)
    known[:, 3] = known[:, 3].clamp(max=0)
    return features, known


def test_examples_are_the_last_of_each_class() -> None:
    examples, seen = Examples(C, D, size=7), [[] for _ in range(C)]
    for seed, b in enumerate((6, 1, 40, 3, 6)):  # 40: more than 7 of a class in one batch
        features, known = batch(seed, b)
        examples.add(features, known)
        for i in range(b):
            for c in range(C):
                if known[i, c] == 1:
                    seen[c].append(features[i, c].tolist())
        for c in range(C):
            last = seen[c][-7:]
            n = int(examples.number[c])
            assert n == len(last)
            assert sorted(examples.stored[c, :n].tolist()) == sorted(last)
    assert [len(rows) > 7 for rows in seen] == [True, True, True, False]


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_mean_cosine_to_examples_and_prototypes() -> None:
    examples, prototypes = Examples(C, D, size=9), Prototypes(C, D, size=3)
    for seed in range(4):
        examples.add(*batch(seed))
    examples.added[2] = 2  # fewer examples than prototypes
    prototypes.fit(examples, seed=0)
    features, _ = batch(9)
    assert prototypes.number.tolist() == [3, 3, 2, 0]
    assert prototypes.seen.tolist() == [True, True, True, False]
    for scores, stored, number in (
        (examples.scores(features), examples.stored, examples.number),
        (prototypes.scores(features), prototypes.centres, prototypes.number),
    ):
        for b in range(B):
            for c in range(C):
                own = [
                    cosine(features[b, c].numpy(), stored[c, k].numpy())
                    for k in range(int(number[c]))
                ]
                expected = sum(own) / len(own) if own else 0
                assert scores[b, c].item() == pytest.approx(expected, abs=1e-5)


def test_prototypes_are_the_centres_of_clusters() -> None:
    """Three far clusters: their means. Drawn otherwise: a fixed point of Lloyd's loop."""
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(3, D)
    points = np.concatenate([centres + 0.1 * rng.standard_normal((3, D)) for _ in range(8)])
    spread = rng.standard_normal((24, D))
    examples, prototypes = Examples(2, D, size=24), Prototypes(2, D, size=3)
    examples.add(
        torch.from_numpy(np.stack([points, spread], axis=1)).float(),
        torch.ones(24, 2, dtype=torch.int8),
    )
    prototypes.fit(examples, seed=1)
    means = [points[k::3].mean(axis=0) for k in range(3)]
    found = prototypes.centres[0].numpy()
    for mean in means:
        assert np.abs(found - mean).max(axis=1).min() < 1e-4
    found = prototypes.centres[1].numpy()
    nearest = np.array([np.argmin([np.sum((x - p) ** 2) for p in found]) for x in spread])
    for k in range(3):
        assert np.allclose(spread[nearest == k].mean(axis=0), found[k], atol=1e-4)
    again = Prototypes(2, D, size=3)
    again.fit(examples, seed=1)
    assert torch.equal(again.centres, prototypes.centres)


@pytest.mark.parametrize("n", [1, 3, 10, 30])
def test_equal_examples_are_one_prototype(n: int) -> None:
    examples, prototypes = Examples(1, D, size=30), Prototypes(1, D)
    examples.add(torch.ones(n, 1, D), torch.ones(n, 1, dtype=torch.int8))
    prototypes.fit(examples, seed=0)
    assert prototypes.number.tolist() == [1]
    assert torch.equal(prototypes.centres[0, 0], torch.ones(D))
    assert prototypes.scores(torch.ones(1, 1, D)).item() == pytest.approx(1)


def test_a_second_fit_forgets_the_first() -> None:
    examples, prototypes = Examples(1, D), Prototypes(1, D, size=4)
    examples.add(torch.randn(9, 1, D), torch.ones(9, 1, dtype=torch.int8))
    prototypes.fit(examples, seed=0)
    few = Examples(1, D)
    few.add(torch.ones(1, 1, D), torch.ones(1, 1, dtype=torch.int8))
    prototypes.fit(few, seed=0)
    assert prototypes.number.tolist() == [1] and not prototypes.centres[0, 1:].any()


def test_gradients_flow_to_features_and_stay_finite_at_zero() -> None:
    examples, prototypes = Examples(C, D), Prototypes(C, D)
    examples.add(*batch(0))
    prototypes.fit(examples, seed=0)
    features = torch.zeros(B, C, D, requires_grad=True)
    moved = batch(1)[0].requires_grad_()
    (prototypes.scores(features).sum() + prototypes.scores(moved).sum()).backward()
    assert features.grad is not None and features.grad.isfinite().all()
    assert moved.grad is not None and moved.grad[:, :3].any() and not moved.grad[:, 3].any()
