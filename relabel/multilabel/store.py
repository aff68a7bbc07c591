"""Parquet shards of the stages: regions, their scores, their labels.

Shape legend: ``B`` images of a shard, ``R`` regions of all of them, ``L`` labels of all of them,
``d`` feature channels, ``k`` classes kept per region, ``H, W`` pixels. The regions of image i are
``offsets[i] : offsets[i + 1]``.

How they lie in their files: `relabel.workspace.columns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csr_array

from relabel.workspace.columns import Shard, column, read_shard

Array = np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class RegionShard(Shard):
    """Regions of images: what stage ``1_regions`` finds.

    Attributes:
        file_name: B names.
        width, height: int32 [B], pixels; 0 for images that could not be read.
        readable: bool [B].
        reason: B texts, why an image could not be read, else "".
        offsets: int64 [B + 1].
        rle: R masks at the images' own size, the ``counts`` of COCO's compressed run lengths, which
            go down the columns.
        area: int64 [R], pixels of the refined mask.
        patch_area: float32 [R], cells of the patch grid, as pooled.
        round: int32 [R], the round of MaskCut that found the region, from 0.
        features: float16 [R, d], pooled; None where reading left them out.
        whole: float16 [B, d], the mean over all patches, 0 for images that could not be read;
            None where reading left it out.
    """

    file_name: Sequence[str] = column("string")
    width: Array = column("int32")
    height: Array = column("int32")
    readable: Array = column("bool")
    reason: Sequence[str] = column("string")
    offsets: Array
    rle: Sequence[str] = column("string", "offsets")
    area: Array = column("int64", "offsets")
    patch_area: Array = column("float32", "offsets")
    round: Array = column("int32", "offsets")
    features: Array | None = column("float16", "offsets", wide=True)
    whole: Array | None = column("float16", wide=True)

    KIND: ClassVar[str] = "regions"

    def regions(self, image: int) -> range:
        """The regions of the shard's image ``image``."""
        return range(int(self.offsets[image]), int(self.offsets[image + 1]))

    def masks(self, image: int) -> Array:
        """bool [n, H, W], the masks of the shard's image ``image``.

        Raises:
            ValueError: a run-length string does not fit the image.
        """
        size = int(self.height[image]), int(self.width[image])
        masks = [decode_mask(self.rle[r], *size) for r in self.regions(image)]
        return np.stack(masks) if masks else np.zeros((0, *size), bool)


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreShard(Shard):
    """Regions under the label maps: what stage ``2_scores`` finds.

    Attributes:
        offsets: int64 [B + 1].
        own: float32 [R], score of the image's own label; NaN where the image has none, or the
            region has no scores.
        ids: int32 [R, k], classes of the greatest scores, greatest first; -1 fills up.
        probs: float32 [R, k], these scores.
    """

    offsets: Array
    own: Array = column("float32", "offsets")
    ids: Array = column("int32", "offsets", wide=True)
    probs: Array = column("float32", "offsets", wide=True)

    KIND: ClassVar[str] = "scores"


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelShard(Shard):
    """Labels of regions and images: what stage ``4_labels`` finds.

    Attributes:
        file_name: B names.
        gt: int32 [B], the image's own label, -1 where it has none.
        offsets: int64 [B + 1].
        ids: int32 [R, k], classes by the region classifier, most probable first; -1 fills up.
        probs: float32 [R, k].
        label_offsets: int64 [B + 1]; the labels of image i are this slice of the next two, the most
            probable first, equal ones by class.
        label_ids: int32 [L].
        label_probs: float32 [L].
    """

    file_name: Sequence[str] = column("string")
    gt: Array = column("int32")
    offsets: Array
    ids: Array = column("int32", "offsets", wide=True)
    probs: Array = column("float32", "offsets", wide=True)
    label_offsets: Array
    label_ids: Array = column("int32", "label_offsets")
    label_probs: Array = column("float32", "label_offsets")

    KIND: ClassVar[str] = "labels"

    @property
    def labels(self) -> csr_array:
        """float32 [B, C], the labels of the images in their order; C is 1 more than the largest."""
        entries = (self.label_probs, self.label_ids, self.label_offsets)
        return csr_array(entries, shape=(len(self), int(self.label_ids.max(initial=-1)) + 1))


@dataclass(frozen=True)
class Found:
    """The n regions of one image.

    Attributes:
        width, height: pixels.
        rle: n run lengths, as in `RegionShard`.
        area: int64 [n], pixels.
        patch_area: float32 [n], cells of the patch grid.
        round: int [n].
        features: float [n, d].
        whole: float [d], the mean of all patch features.
    """

    width: int
    height: int
    rle: list[str]
    area: Array
    patch_area: Array
    round: Array
    features: Array
    whole: Array

    @classmethod
    def of(
        cls, masks: Array, patch_area: Array, round: Array, features: Array, whole: Array
    ) -> Found:
        """Encode masks, bool [n, H, W]."""
        height, width = masks.shape[1:]
        rle, area = [encode_mask(mask) for mask in masks], masks.sum((1, 2), dtype=np.int64)
        return cls(width, height, rle, area, patch_area, round, features, whole)


def region_shard(
    run: Mapping[str, Any], dim: int, images: Sequence[tuple[int, str, Found | str]]
) -> RegionShard:
    """The shard of some images.

    Args:
        run: see `Shard`.
        dim: d, also for shards without a region.
        images: row, file name, and what was found or why the image could not be read; rows ascend.
    """
    zero = np.zeros(0)
    nothing = Found(0, 0, [], zero, zero, zero, np.zeros((0, dim)), np.zeros(dim))
    found = [nothing if isinstance(one, str) else one for _, _, one in images]

    def joined(name: str, dtype: type) -> Array:
        return np.concatenate([getattr(one, name) for one in (nothing, *found)]).astype(dtype)

    return RegionShard(
        run=run,
        row=np.array([row for row, _, _ in images], np.int32),
        file_name=[name for _, name, _ in images],
        width=np.array([one.width for one in found], np.int32),
        height=np.array([one.height for one in found], np.int32),
        readable=np.array([not isinstance(one, str) for _, _, one in images], bool),
        reason=[one if isinstance(one, str) else "" for _, _, one in images],
        offsets=np.cumsum([0, *(len(one.rle) for one in found)], dtype=np.int64),
        rle=[counts for one in found for counts in one.rle],
        area=joined("area", np.int64),
        patch_area=joined("patch_area", np.float32),
        round=joined("round", np.int32),
        features=joined("features", np.float16),
        whole=np.array([one.whole for one in found], np.float16).reshape(-1, dim),
    )


def encode_mask(mask: Array) -> str:
    """The ``counts`` of COCO's compressed run lengths of a mask, bool [H, W]."""
    from pycocotools import mask as coco

    counts: Any = coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
    return counts.decode()


def decode_mask(counts: str, height: int, width: int) -> Array:
    """bool [H, W] from ``counts``.

    Raises:
        ValueError: not a run-length string of that many pixels.
    """
    from pycocotools import mask as coco

    mask: Array = coco.decode({"size": [height, width], "counts": counts}).astype(bool)
    # What runs that end early do not cover is whatever was in memory.
    if encode_mask(mask) != counts:
        raise ValueError(f"the runs do not cover {height} x {width} pixels")
    return mask


def read_regions(path: Path, *, features: bool = True) -> RegionShard:
    """Read one shard of regions, without the features if they are not wanted.

    Raises:
        DataError: missing, truncated, damaged, or not such a shard.
    """
    return read_shard(path, RegionShard, leave_out=() if features else ("features", "whole"))


def read_scores(path: Path) -> ScoreShard:
    """Read one shard of scores; raises as `read_regions`."""
    return read_shard(path, ScoreShard)


def read_labels(path: Path) -> LabelShard:
    """Read one shard of labels; raises as `read_regions`."""
    return read_shard(path, LabelShard)
