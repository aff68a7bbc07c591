"""Work in pieces whose intermediate values are computed again for the gradient, not kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Floats of the largest intermediate value of one piece: 64 MB of float32.
PIECE = 1 << 24


def pieces(total: int, floats_each: int) -> list[slice]:
    """Slices of ``total`` items, each as long as `PIECE` allows and at least one item."""
    step = max(1, PIECE // max(floats_each, 1))
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def recomputed(function: Callable[..., Tensor], *args: object, of: int) -> Tensor:
    """``function(*args)``; its intermediate values are freed and computed again backwards.

    The function must not draw random numbers.

    Args:
        of: number of pieces. The values of a single one are kept, which saves a third of the time.
    """
    if not torch.is_grad_enabled() or of == 1:
        return function(*args)
    result = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(result, Tensor)
    return result
