"""The order in which training images pass: a function of the step, so that resuming is exact."""

from __future__ import annotations

import numpy as np


def rows_of_step(images: int, step: int, batch_size: int, seed: int) -> np.ndarray:
    """The image rows of a step, int64 [batch_size]: every epoch is a fresh permutation."""
    return permuted(images, step * batch_size, batch_size, seed)


def permuted(images: int, start: int, count: int, seed: int) -> np.ndarray:
    """``count`` rows from position ``start`` of permutations one after the other, int64."""
    positions = np.arange(start, start + count)
    rows = np.empty(count, dtype=np.int64)
    for epoch in np.unique(positions // images):
        order = np.random.default_rng([seed, 0, int(epoch)]).permutation(images)
        here = positions // images == epoch
        rows[here] = order[positions[here] % images]
    return rows
