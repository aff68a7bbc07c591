"""Numbers over seeds: their mean and spread, differences seed by seed, and how both are written."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from relabel.evaluation.tables import percentage


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and the sample standard deviation (n - 1), None for a single seed."""

    mean: float
    std: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Mean | None:
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


def mean_percentage(value: Mean | None, *, signed: bool = False) -> str:
    """A mean and its spread as `percentage` writes them: ``24.1 ± 0.3``, ``-`` for None."""
    return percentage(value and value.mean, value and value.std, signed=signed)
