"""Numbers over seeds: their mean and spread, differences seed by seed, and how both are written."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NONE = "-"


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and the sample standard deviation (n - 1), None for a single seed."""

    mean: float
    std: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Mean | None:
        """Of the values that are there; None if there is none."""
        known = [v for v in values if v is not None]
        if not known:
            return None
        std = statistics.stdev(known) if len(known) > 1 else None
        return cls(statistics.fmean(known), std, len(known))


def seed_differences(
    values: Mapping[int, float | None], reference: Mapping[int, float | None]
) -> dict[int, float]:
    """Values minus a reference's, by seed, over the seeds that both have."""
    return {
        seed: value - other
        for seed, value in values.items()
        if value is not None and (other := reference.get(seed)) is not None
    }


def percent(value: Mean | float | None, *, std: float | None = None, signed: bool = False) -> str:
    """A fraction or a mean as percent with one decimal: ``24.1 ± 0.3``, ``+4.9``, ``-``."""
    if value is None:
        return NONE
    if isinstance(value, Mean):
        value, std = value.mean, value.std
    # Adding zero turns a rounded -0.0 into 0.0.
    text = f"{round(100 * value, 1) + 0.0:{'+' if signed else ''}.1f}"
    return text if std is None else f"{text} ± {100 * std:.1f}"
