"""Counts over completed labels, gathered part by part, and the images worth showing.

Shape legend: ``n`` images of a part, ``C`` categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relabel.partial.predict import SOURCES
from relabel.partial.result.parts import CompletedPart

BINS = 10
_MOST_COUNTED = 12


@dataclass(frozen=True, eq=False)
class Shown:
    """What is said of an image beside its picture: one row of a `CompletedPart`, and the truth."""

    group: str
    row: int
    file_name: str
    known: np.ndarray
    scores: np.ndarray
    source: np.ndarray
    present: np.ndarray
    truth: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often confidences of unknown labels are right, in `BINS` bins over 0..1.

    Attributes:
        count: int64 [BINS], labels.
        confidence: float64 [BINS], their mean confidence; NaN without any.
        share: float64 [BINS], the share of them that are present in the truth; NaN without any.
    """

    count: np.ndarray
    confidence: np.ndarray
    share: np.ndarray

    @property
    def error(self) -> float | None:
        """Expected calibration error (Naeini et al., AAAI 2015); None without labels."""
        total = int(self.count.sum())
        if not total:
            return None
        used = self.count > 0
        gap = np.abs(self.confidence[used] - self.share[used])
        return float((gap * self.count[used]).sum() / total)


class CompletionSummary:
    """Gathers counts; `add` is called for each part in order.

    Args:
        num_classes: C.
        pictures: how many images to pick: two thirds with the most labels added, the rest at
            random.
        seed: for the random ones.

    Attributes:
        images: how many there are.
        present, absent, unknown: int64 [C], known labels, and those that were not known.
        added: int64 [S, C], unknown labels that were completed as present, by source.
        before, after: int64 [13], images by known and by completed present labels; the last
            holds the rest.
        confidences: int64 [2 * BINS], unknown labels by confidence.
        pairs: float64 [C, C], images where the first is known present and the second was added.
    """

    def __init__(self, num_classes: int, *, pictures: int = 24, seed: int = 0) -> None:
        self.num_classes = num_classes
        self.images = 0
        self.present, self.absent, self.unknown = np.zeros((3, num_classes), np.int64)
        self.added = np.zeros((len(SOURCES), num_classes), np.int64)
        self.before, self.after = np.zeros((2, _MOST_COUNTED + 1), np.int64)
        self.confidences = np.zeros(2 * BINS, np.int64)
        self.pairs = np.zeros((num_classes, num_classes))
        self._both, self._seen = np.zeros((2, num_classes, num_classes))
        self._soft = np.zeros((num_classes, num_classes))
        self._soft_each = np.zeros(num_classes)
        self._binned = np.zeros((3, BINS))
        self._random = np.random.default_rng(seed)
        most = 2 * pictures // 3
        self._wanted = {"Most labels added": most, "At random": pictures - most}
        self._picks: dict[str, list[tuple[float, Shown]]] = {name: [] for name in self._wanted}

    def add(self, part: CompletedPart, truth: np.ndarray | None = None) -> None:
        """Count one part.

        Args:
            truth: int8 [n, C] in {-1, 0, 1}, where more is true than was known.
        """
        known, unknown = part.known, part.unknown
        new = unknown & part.present
        self.images += len(part)
        self.present += (known > 0).sum(axis=0)
        self.absent += (known < 0).sum(axis=0)
        self.unknown += unknown.sum(axis=0)
        for code in range(len(SOURCES)):
            self.added[code] += (new & (part.source == code)).sum(axis=0)
        self.before += _counted((known > 0).sum(axis=1))
        self.after += _counted(part.present.sum(axis=1))
        self.confidences += _histogram(part.scores[unknown], 2 * BINS)
        given = (known > 0).astype(np.float32)
        self._both += given.T @ given
        self._seen += given.T @ (known != 0).astype(np.float32)
        self.pairs += given.T @ new.astype(np.float32)
        self._soft += part.scores.T @ part.scores
        self._soft_each += part.scores.sum(axis=0)
        if truth is not None:
            self._compare(part, truth)
        self._choose(part, new, truth)

    def _compare(self, part: CompletedPart, truth: np.ndarray) -> None:
        hidden = part.unknown & (truth != 0)
        confidence, right = part.scores[hidden].astype(np.float64), truth[hidden] > 0
        at = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        for k, weights in enumerate((None, confidence, right.astype(np.float64))):
            self._binned[k] += np.bincount(at, weights, minlength=BINS)

    def _choose(self, part: CompletedPart, new: np.ndarray, truth: np.ndarray | None) -> None:
        """Keep the part's images that come before those chosen so far."""
        chance = self._random.random(len(part))
        # Of images with equally many new labels the ones with the greatest confidence.
        sure = np.where(new, part.scores, 0).sum(axis=1)
        orders = {"Most labels added": -sure, "At random": chance}
        keep = sum(self._wanted.values())  # an image may be wanted by both groups
        for group, order in orders.items():
            found = self._picks[group]
            rows = np.flatnonzero(new.any(axis=1)) if group != "At random" else np.arange(len(part))
            best = rows[np.argsort(order[rows], kind="stable")[:keep]]
            for i in best.tolist():
                shown = Shown(
                    group,
                    part.start + i,
                    part.file_names[i],
                    part.known[i].copy(),  # a view would keep the part
                    part.scores[i].copy(),
                    part.source[i].copy(),
                    part.present[i].copy(),
                    None if truth is None else truth[i].copy(),
                )
                found.append((float(order[i]), shown))
            self._picks[group] = sorted(found, key=lambda item: item[0])[:keep]

    def picks(self) -> list[Shown]:
        """The images to show, group by group, none twice."""
        taken: set[int] = set()
        result: list[Shown] = []
        for group, wanted in self._wanted.items():
            free = [s for _, s in self._picks[group] if s.row not in taken][:wanted]
            taken.update(s.row for s in free)
            result += free
        return result

    def statistical(self) -> np.ndarray:
        """float64 [C, C]: share of the images known to show the first, and known to show the
        second or not, that show the second; NaN where no image tells. 1 on the diagonal."""
        return _ratio(self._both, self._seen)

    def told(self) -> np.ndarray:
        """float64 [C, C]: the images that `statistical` counts in."""
        return self._seen

    def completed(self) -> np.ndarray:
        """float64 [C, C]: the same of the completed soft labels, mean confidence of the second
        weighted by that of the first; NaN where the first is nowhere. 1 on the diagonal."""
        found = _ratio(self._soft, np.broadcast_to(self._soft_each[:, None], self._soft.shape))
        np.fill_diagonal(found, np.where(self._soft_each > 0, 1.0, np.nan))
        return found

    def reliability(self) -> Reliability:
        """Confidences against the truth; all counts are 0 where no truth was given."""
        count, confidence, share = self._binned
        with np.errstate(invalid="ignore", divide="ignore"):
            return Reliability(count.astype(np.int64), confidence / count, share / count)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    found = np.full(part.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def _counted(values: np.ndarray) -> np.ndarray:
    return np.bincount(np.minimum(values, _MOST_COUNTED), minlength=_MOST_COUNTED + 1)


def _histogram(values: np.ndarray, bins: int) -> np.ndarray:
    return np.bincount(np.clip((values * bins).astype(np.int64), 0, bins - 1), minlength=bins)
