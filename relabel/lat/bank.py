"""The proposal bank: every proposal's frozen region features, computed once before training.

Proposals do not move while training and the backbone is frozen, so images are read and pooled
once; training then reads float16 rows from a memory-mapped file and never touches a pixel.

Shape legend: ``I`` images, ``R`` proposals in all, ``C`` classes, ``F`` values per region.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import JointLabelSpace
from relabel.datasets.pixels.batches import ImageBatches
from relabel.errors import Problems
from relabel.lat.features import FrozenFeatures
from relabel.lat.places import Places
from relabel.lat.proposals import Proposals, image_proposals
from relabel.lat.settings import LatSettings
from relabel.lat.simulate import Manner, with_players
from relabel.settings import Runtime
from relabel.training.loop import resolve_device
from relabel.workspace.engine import Make, make_in_order
from relabel.workspace.fingerprint import fingerprint
from relabel.workspace.progress import Progress, progress

IMAGES_PER_BATCH = 4
IMAGES_PER_ITEM = 32  # of whole batches, so that they are the same on every engine


@dataclass(frozen=True, eq=False)
class ProposalBank:
    """What the model learns from: proposals and pooled regions of images of one dataset.

    Attributes:
        dataset: the images' dataset.
        position: its place in the joint label space.
        image_rows: int64 [I], rows of the dataset.
        proposals: one `Proposals` per image.
        region: float16 [R, F], memory-mapped; image ``i`` has rows ``offsets[i]:offsets[i+1]``.
        offsets: int64 [I + 1].
        places: where objects of the dataset lie on other spaces' annotations.
    """

    dataset: DetectionDataset
    position: int
    image_rows: np.ndarray
    proposals: list[Proposals]
    region: np.ndarray
    offsets: np.ndarray
    places: Places = field(default_factory=Places.none)

    def __getstate__(self) -> dict[str, Any]:
        """What another process opens the same bank from: regions stay in their file."""
        file = getattr(self.region, "filename", None)
        return {**self.__dict__, "region": self.region if file is None else Path(file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(state["region"], Path):
            self.__dict__["region"] = np.load(state["region"], mmap_mode="r")

    def restricted(self, keep: np.ndarray) -> ProposalBank:
        """Some of the images, bool [I]."""
        at = np.flatnonzero(keep)
        # Offsets stay those of the whole file, so each kept image still finds its rows.
        return replace(
            self,
            image_rows=self.image_rows[at],
            proposals=[self.proposals[i] for i in at],
            offsets=self.offsets[at],
        )


def build_bank(
    dataset: DetectionDataset,
    image_rows: np.ndarray,
    joint: JointLabelSpace,
    labels: Mapping[str, PseudoLabels],
    features: FrozenFeatures,
    settings: LatSettings,
    runtime: Runtime,
    folder: Path,
    manners: Mapping[int, Manner],
) -> ProposalBank:
    """Pool the proposals of ``image_rows`` into ``folder``; a finished bank is reused.

    Only proposals that training may draw are pooled: annotations just where they are drawn.

    Args:
        manners: see `relabel.lat.simulate.with_players`; none without simulated sources.

    Raises:
        DataError: an image that cannot be read (unless ``runtime.skip_bad``).
    """
    rows = np.asarray(image_rows)
    with_annotations = not settings.has("crossfit")
    all_proposals = []
    for row in rows.tolist():
        found = image_proposals(dataset, row, joint, labels, settings, jittered=with_annotations)
        all_proposals.append(found if with_annotations else found.take(found.variant == 0))
    all_proposals, places = with_players(
        dataset, rows, all_proposals, joint, manners, with_places=settings.has("places")
    )
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in all_proposals])]).astype(np.int64)
    file, done = folder / f"{dataset.name}.npy", folder / f"{dataset.name}.done"
    shape = (int(offsets[-1]), features.width)
    proposed = [f"{p.boxes.shape} {zlib.crc32(p.boxes.tobytes())}" for p in all_proposals]
    key = fingerprint([features.fingerprint(), proposed])
    if not (done.exists() and done.read_text() == key and _fits(file, shape)):
        folder.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        region = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
        proposals = dict(zip(rows.tolist(), all_proposals, strict=True))
        starts = dict(zip(rows.tolist(), offsets[:-1], strict=True))
        for row, values in _pool_all(features, dataset, rows, proposals, runtime):
            region[starts[row] : starts[row] + len(values)] = values
        region.flush()
        done.write_text(key)
    region = np.load(file, mmap_mode="r") if shape[0] else np.zeros(shape, np.float16)
    position = joint.position(dataset.name)
    return ProposalBank(dataset, position, rows, all_proposals, region, offsets, places)


def _pool_all(
    features: FrozenFeatures,
    dataset: DetectionDataset,
    rows: np.ndarray,
    proposals: Mapping[int, Proposals],
    runtime: Runtime,
) -> Iterator[tuple[int, np.ndarray]]:
    """The images that can be read and their regions; the engine's actors pool some at a time."""
    title = f"Pooling the proposals of {dataset.name}"
    propose = proposals.__getitem__
    if runtime.engine == "local":
        with progress(title, total=len(rows), unit="img", quiet=runtime.quiet) as bar:
            for row, _, values in pooled(features, dataset, rows, propose, runtime, bar):
                yield row, values
        return
    shipped = features.on(torch.device("cpu"))
    parts = [rows[at : at + IMAGES_PER_ITEM] for at in range(0, len(rows), IMAGES_PER_ITEM)]

    def open(runtime: Runtime) -> Make[list[tuple[int, np.ndarray]]]:
        here = shipped.on(resolve_device(runtime.device))

        def make(items: Sequence[int]) -> Iterator[list[tuple[int, np.ndarray]]]:
            with progress(title, quiet=runtime.quiet) as bar:
                for i in items:
                    found = pooled(here, dataset, parts[i], propose, runtime, bar)
                    yield [(row, values) for row, _, values in found]

        return make

    items = range(len(parts))
    for found in make_in_order(open, items, runtime, title=title, unit="parts", what="part"):
        yield from found


def pooled(
    features: FrozenFeatures,
    dataset: DetectionDataset,
    rows: np.ndarray,
    propose: Callable[[int], Proposals],
    runtime: Runtime,
    bar: Progress,
) -> Iterator[tuple[int, Proposals, np.ndarray]]:
    """The images that can be read: row, proposals, and their regions float16 [M, F].

    Args:
        propose: row of an image to its proposals.
        bar: counts the images.

    Raises:
        DataError: an image that cannot be read (unless ``runtime.skip_bad``).
    """
    with ImageBatches(
        dataset,
        rows=rows,
        batch_size=IMAGES_PER_BATCH,
        workers=runtime.workers,
        problems=Problems(runtime.skip_bad),
    ) as batches:
        for found, images in batches:
            proposals = [propose(row) for row in found.tolist()]
            regions = features.pool(images, [p.boxes for p in proposals])
            yield from zip(found.tolist(), proposals, regions, strict=True)
            bar.update(len(found))


def _fits(file: Path, shape: tuple[int, int]) -> bool:
    try:
        return np.load(file, mmap_mode="r").shape == shape
    except (OSError, ValueError):
        return False
