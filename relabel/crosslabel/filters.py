"""Filters: functions from pseudo-labels to the boxes worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from relabel.crosslabel.pseudo import PseudoLabels

Filter = Callable[["PseudoLabels"], np.ndarray]
"""From n pseudo-labels to bool [n], True for those to keep."""


def fixed_threshold(min_score: float) -> Filter:
    """Keep boxes whose best class scores at least ``min_score``."""
    return lambda labels: labels.score >= np.float32(min_score)


def class_wise_thresholds(thresholds: Mapping[str, float], default: float | None = None) -> Filter:
    """Keep boxes whose best class reaches that class's own threshold.

    Args:
        thresholds: minimum score by class name (or alias).
        default: for classes not named; None leaves their boxes out.

    Raises:
        ConfigError: on use, a name that the label space does not have.
    """

    def keep(labels: PseudoLabels) -> np.ndarray:
        limits = np.full(len(labels.space), np.inf if default is None else default, np.float32)
        for name, limit in thresholds.items():
            limits[labels.space.index(name)] = limit
        return labels.score >= limits[labels.category]

    return keep
