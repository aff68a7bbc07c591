"""Class-wise thresholds and loss weights of pseudo-labels, of how sure a detector is of each class.

Li et al., "Rethinking Pseudo Labels for Semi-Supervised Object Detection" (arXiv 2106.00168),
section 2.3: a detector that has seen few boxes of a class gives them lower scores, so that one
threshold for all leaves that class with hardly any pseudo-label.

Shape legend: ``C`` classes, ``n`` candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from relabel.errors import ConfigError

# tau = 0.7 that they go with is the caller's. Table 8 of the paper varies them.
GAMMA_THRESHOLD = 0.05
GAMMA_WEIGHT = 0.6
CLIP = (0.4, 0.9)
# No class counts as rarer than this share of the mean: its weight would grow without bound while
# it has next to no candidates, and one wrong box would outweigh all others. 0.01 ** -0.6 = 15.8.
RAREST = 0.01


class ClassStatistics:
    """How many candidates there were of each class, and the sum of their confidences.

    A candidate's confidence is p * v, class score by localisation quality; p where a detector has
    no quality. The sum over a class, ``c_m``, grows with both their number and the detector's
    sureness.

    Args:
        classes: C.
        decay: what `add` multiplies the sums so far by: 1 counts all alike, 0.99 forgets what lies
            some hundred calls back, as a teacher that learns on should.

    Attributes:
        counts: float64 [C], candidates, after decay.
        confidences: float64 [C], the sums ``c_m``, after decay.

    Raises:
        ConfigError: ``decay`` outside [0, 1].
    """

    def __init__(self, classes: int, decay: float = 1.0) -> None:
        if not 0 <= decay <= 1:
            raise ConfigError(f"decay is {decay} and must be a number from 0 to 1")
        self.decay = decay
        self.counts = np.zeros(classes)
        self.confidences = np.zeros(classes)

    def add(self, category: np.ndarray, confidence: np.ndarray) -> None:
        """Count candidates: int [n] classes, float [n] confidences in [0, 1]."""
        classes = len(self.counts)
        at = np.asarray(category).astype(np.int64)  # an empty list is of floats
        sums = np.bincount(at, np.asarray(confidence, np.float64), minlength=classes)
        self.counts = self.decay * self.counts + np.bincount(at, minlength=classes)
        self.confidences = self.decay * self.confidences + sums

    @property
    def frequency(self) -> np.ndarray:
        """float64 [C], ``c_m`` over the mean number of candidates of a class; 1 where none was."""
        mean = self.counts.mean() if len(self.counts) else 0.0
        return self.confidences / mean if mean > 0 else np.ones(len(self.counts))

    def thresholds(
        self,
        tau: float,
        gamma: float = GAMMA_THRESHOLD,
        clip: tuple[float, float] = CLIP,
    ) -> np.ndarray:
        """``tau_m = frequency ** gamma * tau`` within ``clip`` (equation 6).

        A class without candidates has the lower end of ``clip``: nothing is known that would make
        its first box less welcome. Before any class has one, all have ``tau``.

        Args:
            tau: threshold of a class whose sum is the mean number of candidates.
            gamma: how far rare classes are preferred; 0 not at all (``tau``, clipped).

        Returns:
            float64 [C].
        """
        if not self.counts.any():
            return np.full(len(self.counts), float(tau))
        return np.clip(self.frequency**gamma * tau, *clip)

    def weights(self, gamma: float = GAMMA_WEIGHT) -> np.ndarray:
        """``alpha_m = frequency ** -gamma`` of the losses of a class's positives (equation 6).

        The frequency of a class counts as `RAREST` at least, also where the class has no candidate.
        Before any class has one, all weights are 1.

        Args:
            gamma: how far rare classes are preferred; 0 not at all.

        Returns:
            float64 [C], above zero.
        """
        return np.maximum(self.frequency, RAREST) ** -gamma

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: what torch writes and reads back without unpickling objects, and JSON."""
        return {"counts": self.counts.tolist(), "confidences": self.confidences.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ConfigError: it is of another number of classes.
        """
        counts = np.array(state["counts"], np.float64)
        confidences = np.array(state["confidences"], np.float64)
        if counts.shape != self.counts.shape or confidences.shape != self.counts.shape:
            raise ConfigError(
                f"class statistics of {len(counts)} classes, expected {len(self.counts)}",
                remedy="Go on with the label space that they were counted in.",
            )
        self.counts, self.confidences = counts, confidences
