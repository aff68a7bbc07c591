"""Transfer: a source dataset's images, annotations and pseudo-labels into target-space boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.removed import Removed
from relabel.errors import DataError
from relabel.lat.assemble import PredictionShard, assemble
from relabel.lat.bank import pooled
from relabel.lat.calibrate import Predictions, candidates
from relabel.lat.checkpoint import TrainedTransfer
from relabel.lat.model import ProposalBatch
from relabel.lat.proposals import PLACE, Proposals, annotation_numbers, image_proposals
from relabel.lat.settings import SHARD_IMAGES
from relabel.settings import Runtime
from relabel.training.loop import resolve_device
from relabel.workspace.columns import AGAIN, iterate, join, read_shard, write_shard
from relabel.workspace.engine import Make, driver_device, make_shards
from relabel.workspace.parts import shard_progress
from relabel.workspace.progress import Progress
from relabel.workspace.stage import Shards


def transfer(
    model: Path,
    source: DetectionDataset,
    labels: Mapping[str, PseudoLabels],
    out: Path,
    runtime: Runtime,
    *,
    with_uncertain: bool = False,
) -> tuple[DetectionDataset, Removed]:
    """Rewrite one source dataset into the model's target space.

    Proposals are the source's annotations and every other space's pseudo-labels. The finished
    shards in ``out`` are reused. What becomes a label is decided in `relabel.lat.decide`.

    Args:
        model: folder that `train_lat` wrote.
        labels: pseudo-labels on ``source`` by the name of their label space.
        with_uncertain: add what is neither surely an object nor surely background as ignore
            regions of origin `UNCERTAIN`, for a detector's training.

    Returns:
        The source's images with target-space boxes, scores, alternatives and provenance, and the
        annotations that left no label. Scores are probabilities of being right. Ignore regions of
        the source stay ignore regions, under the target class that their source class mostly
        became.

    Raises:
        DataError: a damaged model or shard, shards of another transfer, or an image that cannot
            be read (unless ``skip_bad``).
    """
    local = runtime.engine == "local"
    trained = TrainedTransfer.load(model, resolve_device(driver_device(runtime)))
    here = trained if local else None
    shards = Shards(out, total=max(1, len(source)), size=SHARD_IMAGES)
    run = {"source": source.name, "images": len(source), "target": trained.target}
    title = f"Transferring {source.name} into {trained.target}"

    def open(runtime: Runtime) -> Make[None]:
        opened = here or TrainedTransfer.load(model, resolve_device(runtime.device))

        def make(todo: Sequence[int]) -> Iterator[None]:
            with shard_progress(title, shards, todo, runtime) as bar:
                for i in todo:
                    at = shards.items(i)
                    rows = np.arange(at.start, min(at.stop, len(source)))
                    made = _transfer_rows(opened, source, labels, rows, run, runtime, bar)
                    write_shard(shards.shard_path(i), made)
                    yield None

        return make

    for _ in make_shards(open, shards, list(shards.missing()), runtime, title=title):
        pass
    found = join(list(iterate(shards.paths, partial(read_shard, kind=PredictionShard))))
    if found.run != run:
        raise DataError("holds shards of another transfer", file=out, remedy=AGAIN)
    specialist = labels.get(trained.target)
    return assemble(found, source, trained, specialist, with_uncertain=with_uncertain)


def _transfer_rows(
    trained: TrainedTransfer,
    source: DetectionDataset,
    labels: Mapping[str, PseudoLabels],
    rows: np.ndarray,
    run: Mapping[str, Any],
    runtime: Runtime,
    bar: Progress,
) -> PredictionShard:
    def propose(row: int) -> Proposals:
        found = image_proposals(source, row, trained.joint, labels, trained.settings)
        annotated = np.flatnonzero(found.variant > 0)
        return trained.places.add_to(found, annotated, found.scores[annotated].argmax(axis=1))

    read, counts, found = [], [0], [Predictions.none()]
    space, source_row = [np.zeros(0, np.int16)], [np.zeros(0, np.int64)]
    for row, p, region in pooled(trained.features, source, rows, propose, runtime, bar):
        size = int(source.images.width[row]), int(source.images.height[row])
        here = _predict(trained, p, region, size)
        read.append(row)
        counts.append(len(here))
        found.append(here)
        space.append(p.space[here.rows])
        source_row.append(p.source_row[here.rows])
    every = Predictions.concatenate(found)
    return PredictionShard(
        run=run,
        row=np.array(read, np.int32),
        offsets=np.cumsum(counts),
        boxes=every.boxes,
        scores=every.scores,
        classes=every.classes,
        space=np.concatenate(space),
        source_row=np.concatenate(source_row),
        place=every.place,
    )


def _predict(
    trained: TrainedTransfer, p: Proposals, region: np.ndarray, size: tuple[int, int]
) -> Predictions:
    if len(p) == 0:
        return Predictions.none()
    t = torch.from_numpy
    batch = ProposalBatch(
        t(region.astype(np.float32))[None],
        t(p.boxes)[None],
        t(p.scores)[None],
        t(p.confidence)[None],
        torch.ones(1, len(p), dtype=torch.bool),
        torch.tensor([size], dtype=torch.float32),
    ).to(trained.features.device)
    scores, boxes = trained.predict(batch)
    annotation = annotation_numbers(p, p.variant > 0)
    return candidates(scores[0], boxes[0], annotation, p.variant == PLACE)
