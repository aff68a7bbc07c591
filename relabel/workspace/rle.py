"""Masks as COCO's compressed run-length strings, many of them in one buffer.

Shape legend: ``R`` masks, ``H, W`` pixels. Runs go down the columns, as COCO has it; sizes are
always given as height, then width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np


def encode_masks(masks: np.ndarray) -> list[bytes]:
    """The ``counts`` of COCO's compressed RLE of each mask, bool [n, H, W]."""
    from hotcoco import mask as coco

    return [
        coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"] for mask in np.asarray(masks)
    ]


def decode_mask(counts: bytes, height: int, width: int) -> np.ndarray:
    """bool [H, W] from compressed ``counts``.

    Raises:
        ValueError: not a run-length string of that many pixels.
    """
    from hotcoco import mask as coco

    # The decoder fills up runs that end early, and drops what is beyond the last pixel.
    total = _total(counts)
    if total != height * width:
        raise ValueError(f"the runs cover {total} pixels, not {height} x {width}")
    return coco.decode({"size": [height, width], "counts": bytes(counts)}).astype(bool)


def _total(counts: bytes) -> int:
    """Number of pixels the runs cover.

    Each number is a row of characters of six bits: the low five carry the value, least significant
    first, the sixth says that more follow, and the last one's fifth bit is the sign. From the third
    run on, numbers are differences from the run before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError(f"not a run-length string: {counts[:20]!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            if len(runs) > 2:
                value += runs[-2]
            if value < 0:
                raise ValueError(f"a run of negative length in {counts[:20]!r}")
            runs.append(value)
            value = shift = 0
    if shift:
        raise ValueError(f"a run-length string that is cut off: {counts[-20:]!r}")
    return sum(runs)


@dataclass(frozen=True, eq=False)
class RleColumn:
    """R run-length strings in one buffer.

    Attributes:
        data: the strings one after the other.
        starts: int64 [R + 1], where each begins, and the end.
    """

    data: bytes
    starts: np.ndarray

    @classmethod
    def from_list(cls, values: Iterable[bytes]) -> RleColumn:
        values = list(values)
        starts = np.zeros(len(values) + 1, np.int64)
        np.cumsum([len(v) for v in values], out=starts[1:])
        return cls(b"".join(values), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, region: int) -> bytes:
        return self.data[self.starts[region] : self.starts[region + 1]]

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RleColumn):
            return NotImplemented
        return self.data == other.data and np.array_equal(self.starts, other.starts)

    __hash__ = None  # type: ignore[assignment]
