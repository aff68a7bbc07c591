"""From the class probabilities of regions to labels of the image.

Shape legend: ``R`` regions of many images, ``I`` images, ``C`` classes. The regions of image i are
rows ``offsets[i] : offsets[i + 1]``.
"""

from __future__ import annotations

import numpy as np

from relabel.errors import DataError


def local_soft(probs: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Local-Soft: per class the greatest probability over the image's regions.

    Args:
        probs: float [R, C].
        offsets: int [I + 1].

    Returns:
        float32 [I, C]. Images without regions have zeros.
    """
    result = np.zeros((len(offsets) - 1, probs.shape[1]), dtype=np.float32)
    filled = np.flatnonzero(np.diff(offsets) > 0)
    if len(filled):
        # reduceat gives an empty slice its next row, so empty images are left out: the regions of
        # those that remain still follow one another without gaps.
        result[filled] = np.maximum.reduceat(probs[: offsets[-1]], offsets[filled], axis=0)
    return result


def local_hard(probs: np.ndarray, threshold: float, offsets: np.ndarray) -> np.ndarray:
    """Local-Hard: bool [I, C], the classes that some region has with p >= threshold."""
    # Images without a region have zeros, which a threshold of 0 must not let in.
    found = local_soft(probs, offsets)
    return (found >= np.float32(threshold)) & (found > 0)


def final(local: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """The final labels: max(local labels, one-hot of the image's own label).

    Args:
        local: [I, C], soft or hard.
        labels: int [I], the image's own class, negative where it has none; None leaves them out.

    Returns:
        float32 [I, C], in memory of its own.

    Raises:
        DataError: a label is not below C.
    """
    result = np.array(local, dtype=np.float32)
    if labels is None:
        return result
    if len(labels) and int(labels.max()) >= result.shape[1]:
        raise DataError(
            f"label {int(labels.max())} is outside 0..{result.shape[1] - 1}",
            remedy="The region classifier was trained for fewer classes than the images have.",
        )
    some = np.flatnonzero(labels >= 0)
    result[some, labels[some]] = 1.0
    return result
