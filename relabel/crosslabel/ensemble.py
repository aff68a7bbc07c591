"""Several detectors of one label space as one: the specialists of cross-fitting label together.

Shape legend: ``n`` boxes of an image over all members, ``C`` classes, ``T`` members.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import (
    Detections,
    Detector,
    MapReader,
    PreparedImage,
    Preparing,
    ranked,
)
from relabel.detectors.load import load_detector
from relabel.errors import ConfigError
from relabel.geometry import iou_matrix

if TYPE_CHECKING:
    from relabel.backbones.stored import ImageMaps, MapStore

FUSE_IOU = 0.6
# Boxes whose best class scores less are not worth fusing: as one of several members they would
# end far below any confidence filter.
LEAST_SCORE = 0.02
# A box of no localisation quality still has coordinates.
_LEAST_RANK = 1e-6


class EnsembleDetector:
    """The members' detections fused image by image; a `Detector`.

    Raises:
        ConfigError: no members, or members of different label spaces.
    """

    def __init__(self, members: Sequence[Detector]) -> None:
        if not members or any(m.space != members[0].space for m in members):
            raise ConfigError(
                "the detectors of an ensemble have different label spaces",
                remedy="Train all of them on the same dataset.",
            )
        self.members = list(members)

    @classmethod
    def load(cls, checkpoints: Sequence[Path], device: str = "auto") -> EnsembleDetector:
        """The detectors of some checkpoint folders.

        Raises:
            DataError: a checkpoint is missing or damaged.
        """
        return cls([load_detector(folder, device) for folder in checkpoints])

    @property
    def space(self) -> LabelSpace:
        return self.members[0].space

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        return self._fused([member.predict(images) for member in self.members])

    @property
    def prepared_size(self) -> tuple[int, int] | None:
        """See `Preparing`: None where the members want images of different sizes."""
        sizes = {m.prepared_size if isinstance(m, Preparing) else None for m in self.members}
        return sizes.pop() if len(sizes) == 1 else None

    def prepare(self, image: np.ndarray) -> PreparedImage:
        """See `Preparing`."""
        return cast(Preparing, self.members[0]).prepare(image)

    def predict_prepared(self, images: Sequence[PreparedImage]) -> list[Detections]:
        """See `Preparing`: what one of them prepared is read by all."""
        return self._fused([cast(Preparing, m).predict_prepared(images) for m in self.members])

    def map_store(self, folder: Path) -> MapStore | None:
        """The maps that all members read: None where their backbones are not one and frozen."""
        stores = [m.map_store(folder) if isinstance(m, MapReader) else None for m in self.members]
        folders = {store.folder if store is not None else None for store in stores}
        return stores[0] if len(folders) == 1 else None

    def predict_maps(
        self, maps: Sequence[ImageMaps], shapes: Sequence[Sequence[int]]
    ) -> list[Detections]:
        """See `MapReader`."""
        readers = [m for m in self.members if isinstance(m, MapReader)]
        return self._fused([reader.predict_maps(maps, shapes) for reader in readers])

    def _fused(self, found: Sequence[Sequence[Detections]]) -> list[Detections]:
        return [fuse(parts) for parts in zip(*found, strict=True)]


def fuse(parts: Sequence[Detections], iou: float = FUSE_IOU) -> Detections:
    """Weighted boxes fusion (Solovyev et al., arXiv 1910.13302) of whole score vectors.

    From the highest rank down, a box joins the first cluster whose leading box it overlaps by
    ``iou``, that has no box of its member yet, and whose class it finds at least half as likely
    as its own; else it leads a new cluster. The rank is the score, unless the members rank by
    localisation quality, too. A cluster's scores are the sum of its boxes' score vectors over T,
    so that a member that found nothing counts as one that saw background; its coordinates are the
    mean weighted by rank. What overlaps a cluster of its own member by ``iou`` under the same
    class is a duplicate and is dropped.

    Args:
        parts: what each of T members found in one image.

    Returns:
        One detection per cluster, highest rank first; quality, by which the members' ranking may
        go, where all parts have one.
    """
    members = len(parts)
    classes = parts[0].scores.shape[1]
    boxes = np.concatenate([p.boxes for p in parts]).astype(np.float64)
    scores = np.concatenate([p.scores for p in parts]).astype(np.float64)
    member = np.repeat(np.arange(members), [len(p) for p in parts])
    rated = [p.quality for p in parts if p.quality is not None]
    quality = np.concatenate(rated) if len(rated) == members else None
    ranking = parts[0].ranking if quality is not None else "score"
    top = scores.max(axis=1, initial=0.0)
    rank = ranked(top, quality, ranking)
    order = np.argsort(-rank, kind="stable")
    order = order[top[order] >= LEAST_SCORE]
    boxes, scores, member, top = boxes[order], scores[order], member[order], top[order]
    rank = np.maximum(rank[order], _LEAST_RANK)
    overlap = iou_matrix(boxes.astype(np.float32), boxes.astype(np.float32))
    leaders: list[int] = []
    clusters: list[list[int]] = []
    for i in range(len(boxes)):
        for number in np.flatnonzero(overlap[i, leaders] >= iou) if leaders else ():
            lead = scores[leaders[number]].argmax()
            if scores[i, lead] < 0.5 * top[i]:
                continue
            if member[i] not in member[clusters[number]]:
                clusters[number].append(i)
            break
        else:
            leaders.append(i)
            clusters.append([i])
    fused = np.zeros((len(clusters), 4), np.float32)
    vectors = np.zeros((len(clusters), classes), np.float32)
    rating = np.zeros(len(clusters), np.float32)
    for number, rows in enumerate(clusters):
        weights = rank[rows] / rank[rows].sum()
        fused[number] = weights @ boxes[rows]
        vectors[number] = scores[rows].sum(axis=0) / members
        if quality is not None:
            rating[number] = weights @ quality[order[rows]]
    found = Detections(fused, vectors, None if quality is None else rating, ranking)
    best = ranked(vectors.max(axis=1, initial=0.0), found.quality, ranking)
    return found.take(np.argsort(-best, kind="stable"))
