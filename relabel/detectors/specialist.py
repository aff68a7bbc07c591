"""Training of a specialist: one dataset, its own label space."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from relabel.backbones.stored import ImageMaps, MapStore, stacked
from relabel.datasets.alternatives import possible_classes
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.pixels.location import load_rgb, stated_size
from relabel.detectors.base import Detector
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.training import Batch, new_trainable, train_detector
from relabel.errors import DataError
from relabel.settings import Runtime
from relabel.training.loop import resolve_device, total_steps
from relabel.training.order import rows_of_step
from relabel.training.pixels import pad_batch, resized, resized_pixels
from relabel.training.shared import barrier, own_part
from relabel.workspace.atomic import atomic_write_json
from relabel.workspace.ranks import check_batch, on_all_ranks, rank

Example = tuple[Tensor | ImageMaps, dict[str, Tensor]]
MAPS = "maps"


@on_all_ranks("validate")
def train_specialist(
    train: DetectionDataset,
    out: Path,
    settings: SpecialistSettings,
    runtime: Runtime,
    *,
    validate: Callable[[Detector], dict[str, float]] | None = None,
    maps: Path | None = None,
) -> Path:
    """Train a detector on a dataset, resuming from the checkpoint in ``out`` if it has one.

    Args:
        train: the training images; images without objects count as background.
        out: receives ``model.safetensors``, ``config.json``, ``training.json``, ``metrics.json``.
        validate: named results of a detector, asked for at ``eval_every`` and at the end; see
            `relabel.evaluation.detector.validator`.
        maps: folder of a frozen backbone's maps, which trainings may share and which stays; by
            default one in ``out`` that goes with the end of the training.

    Returns:
        The checkpoint folder, for `load_detector`.

    Raises:
        DataError: no images or no boxes to learn from, or an image that cannot be read.
        ConfigError: the processes of the command cannot share the batch evenly.
    """
    check_objects(train)
    settings = settings.resolved()
    check_batch(settings.batch_size, settings.section)
    out.mkdir(parents=True, exist_ok=True)
    trainable = new_trainable(train.space, settings)
    store = trainable.map_store(maps or out / MAPS, resolve_device(runtime.device))
    if rank() != 0:
        barrier()  # all maps are there
    batches = TrainingBatches(train, settings, trainable.model.divisor, store, runtime)
    if rank() == 0:
        barrier()
    result = train_detector(
        trainable,
        batches,
        total_steps(settings, len(train)),
        out,
        settings,
        runtime,
        description=f"Training the {train.name} specialist",
        evaluate=None if validate is None else lambda detector, _step: validate(detector),
    )
    if rank() == 0:
        atomic_write_json(out / "metrics.json", {"validation": result.history})
        shutil.rmtree(out / MAPS, ignore_errors=True)
    return out


def check_objects(train: DetectionDataset) -> None:
    """Raise DataError where there are no images or no boxes to learn from."""
    if len(train) == 0 or not bool(np.any(~train.boxes.ignore)):
        raise DataError(
            f"dataset {train.name!r} has {len(train)} images and no boxes to learn from",
            file=train.root,
            remedy="Check the split and the annotation file in relabel.toml.",
        )


class TrainingBatches:
    """Step number to a batch: (pixels, sizes, targets). Depends on nothing but the step.

    Images pass in a fresh order every epoch; flips, scales and colours are drawn per step.

    Args:
        store: of a frozen backbone's maps, to have those in the place of pixels; what it lacks of
            the dataset is computed at once.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        settings: SpecialistSettings,
        divisor: int,
        store: MapStore | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.dataset = dataset
        self.settings = settings
        self.divisor = divisor
        self.store = store
        if store is not None:
            mirrored = settings.flip > 0
            self.files = store.fill(dataset, mirrored=mirrored, runtime=runtime or Runtime())

    def __call__(self, step: int) -> Batch:
        s = self.settings
        rng = np.random.default_rng([s.seed, 1, step])
        rows = rows_of_step(len(self.dataset), step, s.batch_size, s.seed).tolist()
        short = s.image_size * draw_scale(s, rng)
        drawn = [self._draw(rng) for _ in rows]
        mine = own_part(len(rows))
        examples = [
            self._image(row, short, *views)
            for row, views in zip(rows[mine], drawn[mine], strict=True)
        ]
        others = [self._size(row, short) for row in rows] if len(examples) < len(rows) else []
        return batch_of(examples, self.divisor, others)

    def image(self, row: int, short: float, rng: np.random.Generator) -> Example:
        """One augmented image, pixels [3, h, w] in [0, 1] or its maps, and its target."""
        return self._image(row, short, *self._draw(rng))

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray | None, bool]:
        """An image's factors of `jitter_color`, where it has any, and whether it is mirrored."""
        s = self.settings
        colors = None
        if self.store is None and s.color_jitter > 0:
            colors = draw_colors(s.color_jitter, rng)
        return colors, bool(rng.random() < s.flip)

    def _image(self, row: int, short: float, colors: np.ndarray | None, mirrored: bool) -> Example:
        if self.store is not None:
            x = self.maps(row, mirrored)
            return x, self._target(row, x.size, mirrored)
        x = self.pixels(row, short, mirrored=False)
        if colors is not None:
            x = jitter_color(x, colors)
        target = self._target(row, x.shape[1:], mirrored)
        return x.flip(2) if mirrored else x, target

    def _size(self, row: int, short: float) -> tuple[int, int]:
        """(height, width) of an image in the batch."""
        width, height = stated_size(self.dataset, row)
        return resized(height, width, short, self.settings.max_image_size)

    def pixels(self, row: int, short: float, mirrored: bool) -> Tensor:
        """[3, h, w] in [0, 1], the short side at ``short``."""
        x = resized_pixels(load_rgb(self.dataset, row), short, self.settings.max_image_size)
        return x.flip(2) if mirrored else x

    def maps(self, row: int, mirrored: bool, view: str = "") -> ImageMaps:
        """The maps of an image, or of a further view of it, where a store has them."""
        assert self.store is not None
        return self.store.read(self.dataset, row, self.files[row], mirrored, view)

    def _target(self, row: int, size: Sequence[int], mirrored: bool) -> dict[str, Tensor]:
        """The boxes of an image that was resized to (height, width)."""
        width, height = stated_size(self.dataset, row)
        keep = self.dataset.rows(row)
        ignored = self.dataset.boxes.ignore[keep]
        factors = np.array([size[1] / width, size[0] / height] * 2)
        boxes = self.dataset.boxes.xyxy[keep] * factors
        if mirrored:
            boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
        boxes = torch.from_numpy(boxes.astype(np.float32))
        labels = torch.from_numpy(self.dataset.boxes.category[keep].astype(np.int64) + 1)
        flags = torch.from_numpy(ignored.copy())
        target = {"boxes": boxes[~flags], "labels": labels[~flags], "ignored": boxes[flags]}
        possible = possible_classes(self.dataset, keep)
        if possible is not None:
            target["possible"] = F.pad(torch.from_numpy(possible), (1, 0))[~flags]
        return target


def batch_of(
    images: Sequence[Example], divisor: int, others: Sequence[tuple[int, int]] = ()
) -> Batch:
    """Augmented images, all pixels [3, h, w] or all maps, with their targets as a batch.

    Args:
        others: (height, width) of the images of the batch that other processes have.
    """
    targets = [target for _, target in images]
    maps = [x for x, _ in images if isinstance(x, ImageMaps)]
    if maps:
        padded = [(-(-h // divisor) * divisor, -(-w // divisor) * divisor) for h, w in others]
        height, width = zip(*padded, strict=True) if padded else ((0,), (0,))
        return *stacked(maps, (max(height), max(width))), targets
    pixels, sizes = pad_batch([x for x, _ in images if isinstance(x, Tensor)], divisor, others)
    return pixels, sizes, targets


def draw_scale(settings: SpecialistSettings, rng: np.random.Generator) -> float:
    """The relative size of a step's images, log-uniform in ``scale_jitter``."""
    low, high = min(settings.scale_jitter), max(settings.scale_jitter)
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def draw_colors(amount: float, rng: np.random.Generator) -> np.ndarray:
    """Factors of brightness, contrast and saturation, each within ``amount`` of 1."""
    return rng.uniform(1 - amount, 1 + amount, 3)


def jitter_color(x: Tensor, factors: np.ndarray) -> Tensor:
    """Pixels [3, h, w] in [0, 1] with other brightness, contrast and saturation."""
    brightness, contrast, saturation = factors
    x = x * float(brightness)
    mean = x.mean()
    x = (x - mean) * float(contrast) + mean
    grey = x.mean(dim=0, keepdim=True)
    return ((x - grey) * float(saturation) + grey).clamp_(0, 1)
