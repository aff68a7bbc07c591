"""Parquet shards of the stages: regions, their scores, their labels.

Shape legend: ``B`` images of a shard, ``R`` regions of all of them, ``L`` labels of all of them,
``d`` feature channels, ``k`` classes kept per region, ``g`` classes kept per image. The regions of
image i are ``offsets[i] : offsets[i + 1]``.

How they lie in their files: `relabel.workspace.columns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from relabel.workspace.columns import Column, Shard, read_shard
from relabel.workspace.rle import RleColumn, decode_mask, encode_masks

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
        rle: R masks at the images' own size, as compressed COCO run lengths.
        area: int64 [R], pixels of the refined mask.
        patch_area: float32 [R], cells of the patch grid, as pooled.
        round: int32 [R], the round of MaskCut that found the region, from 0.
        features: float16 [R, d], pooled; None where reading left them out.
        whole: float16 [B, d], the mean over all patches, 0 for images that could not be read;
            None where it was not kept or reading left it out.
    """

    file_name: Sequence[str]
    width: Array
    height: Array
    readable: Array
    reason: Sequence[str]
    offsets: Array
    rle: RleColumn
    area: Array
    patch_area: Array
    round: Array
    features: Array | None
    whole: Array | None = None

    KIND: ClassVar[str] = "regions"
    COLUMNS: ClassVar[dict[str, Column]] = {
        "row": Column("int32"),
        "file_name": Column("string"),
        "width": Column("int32"),
        "height": Column("int32"),
        "readable": Column("bool"),
        "reason": Column("string"),
        "rle": Column("rle", "offsets"),
        "area": Column("int64", "offsets"),
        "patch_area": Column("float32", "offsets"),
        "round": Column("int32", "offsets"),
        "features": Column("float16", "offsets", wide=True),
        "whole": Column("float16", wide=True, optional=True),
    }

    def regions(self, image: int) -> range:
        """The regions of the shard's image ``image``."""
        return range(int(self.offsets[image]), int(self.offsets[image + 1]))

    def masks(self, image: int) -> Array:
        """bool [n, H, W], the masks of the shard's image ``image``.

        Raises:
            ValueError: a run-length string does not fit the image.
        """
        height, width = int(self.height[image]), int(self.width[image])
        masks = [decode_mask(self.rle[r], height, width) for r in self.regions(image)]
        return np.stack(masks) if masks else np.zeros((0, height, width), bool)


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreShard(Shard):
    """Regions under the label maps: what stage ``2_scores`` finds.

    Attributes:
        offsets: int64 [B + 1].
        own: float32 [R], score of the image's own label; NaN where the image has none, or the
            region has no scores.
        ids: int32 [R, k], classes of the greatest scores, greatest first; -1 fills up.
        probs: float32 [R, k], these scores.
        global_ids: int32 [B, g], classes of the whole image's softmax where a classifier made the
            maps; else None.
        global_probs: float32 [B, g].
    """

    offsets: Array
    own: Array
    ids: Array
    probs: Array
    global_ids: Array | None = None
    global_probs: Array | None = None

    KIND: ClassVar[str] = "scores"
    COLUMNS: ClassVar[dict[str, Column]] = {
        "row": Column("int32"),
        "own": Column("float32", "offsets"),
        "ids": Column("int32", "offsets", wide=True),
        "probs": Column("float32", "offsets", wide=True),
        "global_ids": Column("int32", wide=True, optional=True),
        "global_probs": Column("float32", wide=True, optional=True),
    }


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelShard(Shard):
    """Labels of regions and images: what stage ``4_labels`` finds.

    Attributes:
        file_name: B names.
        gt: int32 [B], the image's own label, -1 where it has none.
        offsets: int64 [B + 1].
        ids: int32 [R, k], classes by the labeler, most probable first; -1 fills up.
        probs: float32 [R, k].
        label_offsets: int64 [B + 1]; the labels of image i are this slice of the next two.
        label_ids: int32 [L].
        label_probs: float32 [L].
    """

    file_name: Sequence[str]
    gt: Array
    offsets: Array
    ids: Array
    probs: Array
    label_offsets: Array
    label_ids: Array
    label_probs: Array

    KIND: ClassVar[str] = "labels"
    COLUMNS: ClassVar[dict[str, Column]] = {
        "row": Column("int32"),
        "file_name": Column("string"),
        "gt": Column("int32"),
        "ids": Column("int32", "offsets", wide=True),
        "probs": Column("float32", "offsets", wide=True),
        "label_ids": Column("int32", "label_offsets"),
        "label_probs": Column("float32", "label_offsets"),
    }


class RegionBuilder:
    """Collects the images of one `RegionShard` in ascending order of their rows.

    Args:
        run: see `Shard`.
        dim: d, also for shards without a region.
    """

    def __init__(self, run: Mapping[str, Any], dim: int) -> None:
        self._run, self._dim = run, dim
        self._images: list[tuple[int, str, int, int, bool, str, int]] = []
        self._rle: list[bytes] = []
        self._columns: dict[str, list[Array]] = {
            "area": [],
            "patch_area": [],
            "round": [],
            "features": [],
        }
        self._whole: list[Array | None] = []

    def add(
        self,
        row: int,
        file_name: str,
        masks: Array,
        *,
        patch_area: Array | Sequence[float],
        round: Array | Sequence[int],
        features: Array,
        whole: Array | None = None,
    ) -> None:
        """Add one image with its n regions.

        Args:
            masks: bool [n, H, W] at the image's own size; [0, H, W] for an image without.
            patch_area: [n].
            round: int [n].
            features: [n, d].
            whole: [d]; with all images of a shard or with none.
        """
        masks = np.asarray(masks, dtype=bool)
        n, height, width = masks.shape
        features = np.asarray(features).reshape(n, self._dim)
        if len(patch_area) != n or len(round) != n:
            raise ValueError(f"{n} masks, {len(patch_area)} patch areas, {len(round)} rounds")
        self._images.append((row, file_name, width, height, True, "", n))
        self._rle += encode_masks(masks)
        self._columns["area"].append(masks.sum((1, 2), dtype=np.int64))
        self._columns["patch_area"].append(np.asarray(patch_area, np.float32))
        self._columns["round"].append(np.asarray(round, np.int32))
        self._columns["features"].append(features.astype(np.float16))
        self._whole.append(None if whole is None else np.asarray(whole).astype(np.float16))

    def skip(self, row: int, file_name: str, reason: str) -> None:
        """Add an image that could not be read."""
        self._images.append((row, file_name, 0, 0, False, reason, 0))
        self._whole.append(np.zeros(self._dim, np.float16))

    def build(self) -> RegionShard:
        rows, names, widths, heights, readable, reasons, counts = (
            zip(*self._images, strict=True) if self._images else ((),) * 7
        )
        empty = {
            "area": np.zeros(0, np.int64),
            "patch_area": np.zeros(0, np.float32),
            "round": np.zeros(0, np.int32),
            "features": np.zeros((0, self._dim), np.float16),
        }
        whole = [one for one in self._whole if one is not None]
        return RegionShard(
            run=self._run,
            row=np.array(rows, np.int32),
            file_name=list(names),
            width=np.array(widths, np.int32),
            height=np.array(heights, np.int32),
            readable=np.array(readable, bool),
            reason=list(reasons),
            offsets=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
            rle=RleColumn.from_list(self._rle),
            **{name: np.concatenate([empty[name], *self._columns[name]]) for name in empty},
            whole=np.stack(whole) if whole and len(whole) == len(self._whole) else None,
        )


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
