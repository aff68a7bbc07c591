"""Cross-labelling: a specialist predicts on another dataset, shard by shard.

Images are decoded, and resized as the detector wants them, in threads while it works on the batch
before. Within a shard, images go through the detector in order of their shape, so that batches need
little padding, and no batch spans two shards: a shard's batches, and so its bytes, are the same
whether or not earlier shards were there already. A detector whose numbers depend on what else is in
a batch (padding, choice of kernels) gives slightly different scores for another ``batch_size``;
nothing else here depends on ``batch_size``, ``shard_images`` or interruptions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from relabel.crosslabel.nms import select
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.crosslabel.shards import PseudoShard, labelling_run, pseudo_shard
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.batches import ImageBatches
from relabel.datasets.pixels.location import image_location, load_rgb, stated_size
from relabel.detectors.base import Detections, Detector, MapReader, Preparing
from relabel.detectors.load import load_detector
from relabel.errors import DataError, Problem, Problems, RelabelError
from relabel.settings import Runtime
from relabel.workspace.columns import Shard, as_json, read_shard, write_shard
from relabel.workspace.engine import Make, driver_device, make_shards
from relabel.workspace.fingerprint import file_fingerprint, fingerprint
from relabel.workspace.mirror import remove
from relabel.workspace.parts import WorkerShare, pending, shard_progress
from relabel.workspace.progress import message
from relabel.workspace.stage import Shards

if TYPE_CHECKING:
    from relabel.backbones.stored import ImageMaps, MapStore

F = TypeVar("F")


def cross_label(
    checkpoint: Path,
    dataset: DetectionDataset,
    out: Path,
    settings: CrossLabelSettings,
    runtime: Runtime,
    *,
    image_rows: np.ndarray | None = None,
    detector: Detector | None = None,
    load: Callable[[str], Detector] | None = None,
    by: str | None = None,
    model: str | None = None,
    problems: Problems | None = None,
    maps: Path | None = None,
) -> None:
    """Label a dataset's images with a specialist and write Parquet shards to ``out``.

    Finished shards are kept if they are readable and belong to the same specialist, images and
    settings; others are redone, and shards of a run with another number of shards are removed.

    Args:
        checkpoint: the specialist's folder.
        dataset: the images to label; its boxes are not looked at.
        out: folder of the shards, ``shard-00000-of-00004.parquet`` and so on.
        settings: filters, NMS, batches, shards.
        runtime: device, decoding threads, ``skip_bad``, ``quiet``, engine.
        image_rows: label these images only, in any order; default all. ``image`` in the result
            still counts rows of the whole dataset, so that cross-fitted parts can be merged.
        detector: used instead of loading ``checkpoint``.
        load: device to detector, where it is not loaded from ``checkpoint`` alone; actors on a
            cluster call it, too.
        by: name of the specialist's dataset; default the name of its label space.
        model: fingerprint of what labels, where it has no checkpoint folder of its own.
        problems: collects skipped images; without it they are listed on stderr.
        maps: folder of maps that trainings on the detector's frozen backbone have kept. Where it
            has all that are needed, they are read and no image is; scores then differ by what
            float16 rounds.

    Raises:
        DataError: no images, an image that cannot be read (unless bad ones are skipped), a
            checkpoint that cannot be loaded, or a detector that returns nonsense.
        RelabelError: an image is too large for the device's memory; the disk is full.
    """
    load = load or partial(load_detector, checkpoint)
    local, given = runtime.engine == "local", detector
    if detector is None:
        # Actors load their own; the driver has to know the label space.
        detector = load(driver_device(runtime))
    space = detector.space
    run = labelling_run(
        space,
        by=by or space.name,
        on=dataset.name,
        images=len(dataset),
        settings=settings.result_dict(),
        model=model_fingerprint(checkpoint) if model is None else model,
    )

    here = detector if local else given

    def open(runtime: Runtime) -> Labeller[Detections]:
        opened = here or load(runtime.device)
        kept = _KeptMaps.find(opened, dataset, image_rows, maps)

        preparing = None
        if kept is None and isinstance(opened, Preparing) and opened.prepared_size is not None:
            preparing = opened

        def label(rows: Sequence[int], images: Sequence[Any]) -> list[Detections]:
            if kept is not None:
                shapes = [stated_size(dataset, row)[::-1] for row in rows]
                found = kept.reader.predict_maps(images, shapes)
            elif preparing is not None:
                shapes = [image.size for image in images]
                found = preparing.predict_prepared(images)
            else:
                found, shapes = opened.predict(images), [image.shape[:2] for image in images]
            if len(found) != len(images):
                raise DataError(
                    f"the detector returned {len(found)} results for {len(images)} images",
                    file=run["by"],
                    remedy="It must return one `Detections` per image.",
                )
            return [
                select(
                    raw,
                    settings,
                    num_classes=space.num_classes,
                    width=width,
                    height=height,
                    source=f"{run['by']} on {dataset.images.file_name[row]}",
                )
                for row, (height, width), raw in zip(rows, shapes, found, strict=True)
            ]

        if preparing is not None:
            return Labeller(label, lambda images, row: preparing.prepare(load_rgb(images, row)))
        return Labeller(label, None if kept is None else kept.read)

    label_shards(
        dataset,
        out,
        run,
        settings,
        runtime,
        kind=PseudoShard,
        open=open,
        shard=pseudo_shard,
        image_rows=image_rows,
        problems=problems,
    )


@dataclass(frozen=True)
class Labeller(Generic[F]):
    """What labels images once its models are loaded.

    Attributes:
        label: dataset rows and their images to what was found in each.
        load: what ``label`` gets of an image; its pixels by default.
    """

    label: Callable[[Sequence[int], Sequence[Any]], Sequence[F]]
    load: Callable[[Any, int], Any] | None = None


@dataclass(frozen=True, eq=False)
class _KeptMaps:
    """The maps of a dataset's images, there for a detector to read.

    Attributes:
        files: by row of the dataset, of the images to label.
    """

    reader: MapReader
    store: MapStore
    files: dict[int, Path]

    @classmethod
    def find(
        cls,
        detector: Detector,
        dataset: DetectionDataset,
        image_rows: np.ndarray | None,
        folder: Path | None,
    ) -> _KeptMaps | None:
        """None where the detector reads none or one is missing."""
        if folder is None or not isinstance(detector, MapReader):
            return None
        store = detector.map_store(folder)
        if store is None:
            return None
        files = store.kept(dataset, _image_rows(dataset, image_rows).tolist())
        return None if files is None else cls(detector, store, files)

    def read(self, dataset: DetectionDataset, row: int) -> ImageMaps:
        return self.store.read(dataset, row, self.files[row], mirrored=False)


def label_shards(
    dataset: DetectionDataset,
    out: Path,
    run: Mapping[str, Any],
    settings: CrossLabelSettings,
    runtime: Runtime,
    *,
    kind: type[Shard],
    open: Callable[[Runtime], Labeller[F]],
    shard: Callable[[Mapping[str, Any], Sequence[int], Sequence[str], Mapping[int, F]], Shard],
    image_rows: np.ndarray | None = None,
    problems: Problems | None = None,
) -> None:
    """Label images batch by batch and write what was found in shards; see `cross_label`.

    Args:
        run: what all shards have in common, see `labelling_run`.
        kind: of the shards, with the columns of images that `PseudoShard` has.
        open: loads what labels; on the engine's actors, too.
        shard: ``run``, rows, file names and what was found by row to a shard; rows that could not
            be read are not among what was found.
    """
    rows = _image_rows(dataset, image_rows)
    tell = problems is None
    problems = Problems(skip_bad=runtime.skip_bad) if problems is None else problems
    shards = Shards(out, total=len(rows), size=settings.shard_images)
    todo = _prepare(shards, rows, run, dataset, problems, kind, quiet=runtime.quiet)
    title = f"Labelling {dataset.name} with {run['by']}"

    def open_shards(runtime: Runtime) -> Make[list[Problem]]:
        labeller = open(runtime)
        per_batch = _images_per_batch(settings, runtime)

        def make(todo: Sequence[int]) -> Iterator[list[Problem]]:
            found_bad = Problems(skip_bad=runtime.skip_bad)
            plan = {i: _batches(dataset, rows[shards.items(i)], per_batch) for i in todo}
            with (
                shard_progress(title, shards, todo, runtime) as bar,
                ImageBatches(
                    dataset,
                    batches=[batch for batches in plan.values() for batch in batches],
                    workers=runtime.workers,
                    problems=found_bad,
                    keep_empty=True,
                    load=labeller.load,
                ) as loader,
            ):
                stream = iter(loader)
                for i, batches in plan.items():
                    found: dict[int, F] = {}
                    for batch in batches:
                        read, images = next(stream)
                        some = _in_halves(labeller.label, read.tolist(), images, source=run["by"])
                        found.update(zip(read.tolist(), some, strict=True))
                        bar.update(len(batch))
                    members = rows[shards.items(i)].tolist()
                    names = [str(dataset.images.file_name[row]) for row in members]
                    write_shard(shards.shard_path(i), shard(run, members, names, found))
                    yield found_bad.found[:]
                    found_bad.found.clear()

        return make

    for bad in make_shards(open_shards, shards, todo, runtime, title=title):
        problems.found.extend(bad)
    if tell:
        for problem in problems.errors:
            message(f"skipped {problem.file}: {problem.message}", quiet=runtime.quiet)


def _image_rows(dataset: DetectionDataset, image_rows: np.ndarray | None) -> np.ndarray:
    """Ascending, unique rows."""
    if image_rows is None:
        rows = np.arange(len(dataset), dtype=np.int64)
    else:
        rows = np.unique(np.asarray(image_rows, dtype=np.int64))
        if len(rows) and not (rows[0] >= 0 and rows[-1] < len(dataset)):
            raise DataError(
                f"image rows {rows[0]} to {rows[-1]} are asked for, dataset {dataset.name!r} has "
                f"{len(dataset)} images",
                remedy="Count rows from 0.",
            )
    if not len(rows):
        raise DataError(
            f"dataset {dataset.name!r} has no images to label",
            file=dataset.root,
            remedy="Check its split with `relabel datasets describe`.",
        )
    return rows


def model_fingerprint(checkpoint: Path) -> str:
    """Of the files that make the model; a retrained specialist's old shards are not reused."""
    files = [checkpoint / "config.json", *sorted(checkpoint.glob("*.safetensors"))]
    parts = [[file.name, file_fingerprint(file)] for file in files if file.is_file()]
    return fingerprint(parts) if parts else ""


def _images_per_batch(settings: CrossLabelSettings, runtime: Runtime) -> int:
    if settings.batch_size != "auto":
        return int(settings.batch_size)
    from relabel.training.loop import resolve_device

    return settings.images_per_batch(resolve_device(runtime.device).type)


def _batches(dataset: DetectionDataset, rows: np.ndarray, size: int) -> list[np.ndarray]:
    """One shard's batches, images of like shape together so that they need little padding."""
    width = dataset.images.width[rows].astype(np.float64)
    height = np.maximum(dataset.images.height[rows], 1)
    ordered = rows[np.lexsort((rows, width, width / height))]
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def _prepare(
    shards: Shards,
    rows: np.ndarray,
    run: Mapping[str, Any],
    dataset: DetectionDataset,
    problems: Problems,
    kind: type[Shard],
    *,
    quiet: bool,
) -> list[int]:
    """Clear the folder of what is not of this run; return the numbers of shards to make."""
    number = {path: i for i, path in enumerate(shards.paths)}
    for path in shards.folder.glob("shard-*.parquet"):
        if path not in number:  # of a run with another number of shards
            remove(path)
    bad: dict[Path, list[int]] = {}
    expected = as_json(run)

    def check(path: Path) -> None:
        members = rows[shards.items(number[path])].tolist()
        names = [str(dataset.images.file_name[row]) for row in members]
        shard: Any = read_shard(path, kind)
        if (shard.run, shard.row.tolist(), shard.file_name) != (expected, members, names):
            raise DataError("of other settings, images or specialist", file=path)
        bad[path] = shard.row[~shard.readable].tolist()
        if bad[path] and not problems.skip_bad:
            raise DataError("some of its images could not be read", file=path)

    todo = pending(shards, WorkerShare(), check, quiet=quiet)
    for path, skipped in bad.items() if problems.skip_bad else ():
        for row in skipped:
            problems.error(
                "image could not be read when the dataset was labelled",
                file=image_location(dataset, row),
                record=f"image {int(dataset.images.id[row])}",
                remedy=f"Once it is repaired, delete {path.name} and run the command again.",
            )
    return todo


def _in_halves(
    label: Callable[[Sequence[int], Sequence[Any]], Sequence[F]],
    rows: Sequence[int],
    images: Sequence[Any],
    *,
    source: str,
) -> list[F]:
    """Label; a batch too large for the device's memory goes through in halves."""
    if not images:
        return []
    try:
        return list(label(rows, images))
    except RuntimeError as error:
        # By name, since torch need not be there for every detector.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        if len(images) == 1:
            one = images[0]
            height, width = one.shape[:2] if isinstance(one, np.ndarray) else one.size
            raise RelabelError(
                f"an image of {width} x {height} pixels does not fit into the device's memory",
                file=source,
                remedy="Use --device cpu, or free the device.",
            ) from error
    # Outside the handler: its traceback would keep the tensors of the failed attempt alive.
    half = len(images) // 2
    first = _in_halves(label, rows[:half], images[:half], source=source)
    return first + _in_halves(label, rows[half:], images[half:], source=source)
