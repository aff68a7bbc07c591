"""From the class probabilities of regions to labels of the image.

Shape legend: ``R`` regions of many images, ``I`` images, ``n`` regions of one image, ``C`` classes.
The regions of image i are rows ``offsets[i] : offsets[i + 1]``. Functions without ``offsets`` take
all regions as one image's.
"""

from __future__ import annotations

import numpy as np

from relabel.errors import DataError


def local_soft(probs: np.ndarray, offsets: np.ndarray | None = None) -> np.ndarray:
    """Local-Soft: per class the greatest probability over the image's regions.

    Args:
        probs: float [R, C].
        offsets: int [I + 1], or None for one image.

    Returns:
        float32 [I, C], or [C] for one image. Images without regions have zeros.
    """
    probs = np.asarray(probs)
    if offsets is None:
        return local_soft(probs, np.array([0, len(probs)]))[0]
    offsets = np.asarray(offsets, dtype=np.int64)
    result = np.zeros((len(offsets) - 1, probs.shape[1]), dtype=np.float32)
    filled = np.flatnonzero(np.diff(offsets) > 0)
    if len(filled):
        # reduceat gives an empty slice its next row, so empty images are left out: the regions of
        # those that remain still follow one another without gaps.
        result[filled] = np.maximum.reduceat(probs[: offsets[-1]], offsets[filled], axis=0)
    return result


def local_hard(
    probs: np.ndarray, threshold: float, offsets: np.ndarray | None = None
) -> np.ndarray:
    """Local-Hard: the classes that some region has with p >= threshold.

    Returns:
        bool [I, C], or [C] for one image.
    """
    if not len(probs):
        rows = () if offsets is None else (len(offsets) - 1,)
        return np.zeros((*rows, np.asarray(probs).shape[1]), dtype=bool)
    # Regions without a label count as 0, which a threshold of 0 must not let in.
    found = local_soft(probs, offsets)
    return (found >= np.float32(threshold)) & (found > 0)


def final(local: np.ndarray, labels: np.ndarray | int | None) -> np.ndarray:
    """The final labels: max(local labels, one-hot of the image's own label).

    Args:
        local: [C] or [I, C], soft or hard.
        labels: the image's own class, or int [I]; negative or None where it has none.

    Returns:
        float32 of the shape of ``local``, in memory of its own.

    Raises:
        DataError: a label is not below C.
    """
    result = np.array(local, dtype=np.float32)
    if labels is None:
        return result
    own = np.atleast_1d(np.asarray(labels, dtype=np.int64))
    rows = result.reshape(-1, result.shape[-1])
    if len(own) != len(rows):
        raise ValueError(f"{len(own)} labels for {len(rows)} images")
    if len(own) and int(own.max()) >= rows.shape[1]:
        raise DataError(
            f"label {int(own.max())} is outside 0..{rows.shape[1] - 1}",
            remedy="The labeler was trained for fewer classes than the images have.",
        )
    some = np.flatnonzero(own >= 0)
    rows[some, own[some]] = 1.0
    return result
