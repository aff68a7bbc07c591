"""How well a ranking of suspects finds errors that were put in: recall at a precision, AP.

A suspect is right where it names an error of the kind that is measured, is not counted where it
names an error of another kind or one that is named already, and is wrong otherwise: natural errors
of the photos' annotations are wrong, too. Numbers are taken where the score changes, so that the
order of equal scores does not matter.

Shape legend: ``N`` suspects, ``E`` errors, ``R`` resamples, ``I`` images of all seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WRONG, NOT_COUNTED = -1, -2
PRECISIONS = (0.5, 0.8)
NUMBERS = ("AP", *(f"R@P{p:g}" for p in PRECISIONS))


@dataclass(frozen=True, eq=False)
class Ranking:
    """Suspects of one kind, of all seeds.

    Attributes:
        score: [N], higher is more suspect.
        image: int64 [N], the photo; the same one in every seed.
        error: int64 [N], which error it names, `WRONG` or `NOT_COUNTED`.
        errors: int64 [E], the photos of the errors to find.
    """

    score: np.ndarray
    image: np.ndarray
    error: np.ndarray
    errors: np.ndarray

    @classmethod
    def join(cls, parts: list[Ranking]) -> Ranking:
        """The rankings of several seeds as one, each with errors of its own."""
        before = np.cumsum([0, *(len(p.errors) for p in parts[:-1])])
        return cls(
            np.concatenate([p.score for p in parts]),
            np.concatenate([p.image for p in parts]),
            np.concatenate(
                [
                    np.where(p.error >= 0, p.error + n, p.error)
                    for p, n in zip(parts, before.tolist(), strict=True)
                ]
            ),
            np.concatenate([p.errors for p in parts]),
        )

    def numbers(self, weights: np.ndarray) -> np.ndarray:
        """[R, 3], `NUMBERS`, each photo counted as often as ``weights`` [R, I] says."""
        order = np.lexsort((self.error == WRONG, -self.score))
        error, image, score = self.error[order], self.image[order], self.score[order]
        first = np.zeros(len(error), bool)
        named = np.flatnonzero(error >= 0)
        first[named[np.unique(error[named], return_index=True)[1]]] = True
        own = weights[:, image]
        right = np.cumsum(own * first, axis=1)
        wrong = np.cumsum(own * (error == WRONG), axis=1)
        ends = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else []
        right, wrong = right[:, ends], wrong[:, ends]
        total = np.maximum(weights[:, self.errors].sum(axis=1, keepdims=True), 1e-9)
        recall = right / total
        precision = np.divide(right, right + wrong, out=np.zeros_like(right), where=right > 0)
        gain = np.diff(recall, axis=1, prepend=0)
        found = [(gain * precision).sum(axis=1)]
        found += [np.where(precision >= p, recall, 0).max(axis=1, initial=0) for p in PRECISIONS]
        return np.stack(found, axis=1)
