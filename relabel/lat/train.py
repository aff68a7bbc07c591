"""Joint training of the transfer model on all datasets at once."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import JointLabelSpace, LabelSpace
from relabel.datasets.pixels.location import load_rgb
from relabel.errors import DataError
from relabel.files.tensors import read_tensors
from relabel.lat.bank import ProposalBank, build_bank
from relabel.lat.calibrate import HeldBack, calibrate, candidates, class_overlaps
from relabel.lat.checkpoint import TrainedTransfer, target_first
from relabel.lat.features import FrozenFeatures
from relabel.lat.folds import folds
from relabel.lat.model import ProposalBatch, Targets, TransferModel, lat_losses, predict_target
from relabel.lat.proposals import PLACE, annotation_numbers, draw, image_truth
from relabel.lat.settings import LatSettings
from relabel.lat.simulate import Manner, smallest_size
from relabel.settings import Runtime
from relabel.training.loop import drop_checkpoint, fit, resolve_device, step_seed, total_steps
from relabel.training.order import permuted, rows_of_step
from relabel.training.shared import own_part
from relabel.workspace.atomic import atomic_path, atomic_write_json
from relabel.workspace.ranks import check_batch, on_all_ranks, rank

PCA_IMAGES = 64
WEIGHTS = "model.safetensors"


def train_lat(
    datasets: Mapping[str, DetectionDataset],
    labels: Mapping[tuple[str, str], PseudoLabels],
    target: str,
    out: Path,
    settings: LatSettings,
    runtime: Runtime,
    *,
    specialists: Mapping[str, Path] | None = None,
    bank_folder: Path | None = None,
    prompted_detectors: Mapping[str, LabelSpace] | None = None,
) -> Path:
    """Train Label-Aligned Transfer into ``target``; resumes from what ``out`` holds.

    Args:
        datasets: every dataset by name, the target among them.
        labels: pseudo-labels by (specialist, dataset); (n, n) are out-of-fold predictions.
        target: name of the target dataset.
        out: receives ``model.safetensors``, ``config.json`` and ``training.json``.
        specialists: checkpoints by name, needed where ``backbone`` is ``specialist``.
        bank_folder: keep the pooled proposals here, for several trainings on the same ones;
            without it they lie in ``out`` and go when training ends.
        prompted_detectors: label spaces, by name, of detectors without a dataset that label all
            images; their labels are pseudo-labels only, and are among ``labels`` as (prompted
            detector, dataset).

    Returns:
        ``out``.

    Raises:
        DataError: nothing to learn the target space from.
        ConfigError: the processes of the command cannot share the batch evenly.
    """
    settings = settings.resolved()
    check_batch(settings.batch_size, settings.section)
    out.mkdir(parents=True, exist_ok=True)
    joint = target_first(
        {n: d.space for n, d in datasets.items()} | dict(prompted_detectors or {}), target
    )
    device = resolve_device(runtime.device)
    features = FrozenFeatures.create(settings, device, (specialists or {}).get(target))
    named = {s.name: datasets[s.name] for s in joint.spaces if s.name in datasets}
    chosen = {n: training_rows(d, settings) for n, d in named.items()}
    features.fit_pca(_pca_images(named, chosen, runtime))
    folder = bank_folder or out / "bank"
    manners = {}
    if settings.has("simulated-source"):
        manners = {joint.position(n): _manner(d, chosen[n]) for n, d in named.items()}
    banks = []
    for name, dataset in named.items():
        pseudo = {by: pl for (by, on), pl in labels.items() if on == name}
        banks.append(
            build_bank(
                dataset, chosen[name], joint, pseudo, features, settings, runtime, folder, manners
            )
        )
    if not any(len(bank.image_rows) for bank in banks):
        raise DataError("no training images", file=out, remedy="Check the datasets' splits.")
    models, logs, seen = [], [], []
    held_back = calibration_folds(banks[0], settings)
    for number, (held, learned) in enumerate(held_back):
        kept = [banks[0].restricted(learned), *banks[1:]]
        part = out / "parts" / str(number)
        title = f"Training label transfer into {target} ({number + 1} of {len(held_back)})"
        model = new_model(joint, features.width, settings, number)
        if (part / WEIGHTS).exists():
            model.load_state_dict(read_tensors(part / WEIGHTS))
            model = model.to(device).eval()
        else:
            model = train_model(model, kept, joint, device, settings, runtime, part, title)
        models.append(model)
        logs.append(json.loads((part / "training.json").read_text()))
        if held.any():
            rest = banks[0].restricted(held)
            seen += hidden_predictions(models[-1], rest, joint, settings, device, len(banks))
    annotated = [image_truth(datasets[target], int(row))[:2] for row in chosen[target]]
    calibration = calibrate(seen, annotated, joint.spaces[0].num_classes, joint.num_classes)
    places = banks[0].places
    TrainedTransfer(models, features, joint, target, settings, calibration, places).save(out)
    atomic_write_json(out / "training.json", {"models": logs})
    if bank_folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(out / "parts", ignore_errors=True)
    return out


def new_model(
    joint: JointLabelSpace, width: int, settings: LatSettings, number: int
) -> TransferModel:
    """One of the models with random weights, for region features of ``width`` values."""
    torch.manual_seed(step_seed(settings.seed, number))
    return TransferModel(settings, joint.num_classes, len(joint.spaces), width)


@on_all_ranks()
def train_model(
    model: TransferModel,
    banks: list[ProposalBank],
    joint: JointLabelSpace,
    device: torch.device,
    settings: LatSettings,
    runtime: Runtime,
    part: Path,
    title: str,
) -> TransferModel:
    """Train one of the models; resumes from what ``part`` holds, and leaves its weights there."""
    from safetensors.torch import save_file

    part.mkdir(parents=True, exist_ok=True)
    batches = LatBatches(banks, joint, settings)
    training = replace(settings.training, precision=settings.precision_on(device.type))

    def losses(net: Any, data: Any) -> dict[str, torch.Tensor]:
        batch, targets = data
        batch, targets = batch.to(device), targets.to(device)
        logits, deltas = net(batch)
        with torch.autocast(device.type, enabled=False):
            return lat_losses(logits, deltas, batch, targets, settings)

    fit(
        model,
        batches,
        losses,
        steps=total_steps(training, len(batches)),
        out=part,
        settings=training,
        runtime=runtime,
        description=title,
    )
    if rank() == 0:
        tensors = {k: v.cpu().contiguous() for k, v in model.state_dict().items()}
        with atomic_path(part / WEIGHTS) as temporary:
            save_file(tensors, str(temporary))
        drop_checkpoint(part)
    return model


def training_rows(dataset: DetectionDataset, settings: LatSettings) -> np.ndarray:
    """Images of a dataset that are trained on: all, or an even spread of ``max_images``."""
    n = len(dataset)
    if settings.max_images <= 0 or n <= settings.max_images:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, settings.max_images).round().astype(np.int64))


def calibration_folds(
    target: ProposalBank, settings: LatSettings
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Which of the target's images each model is tried on and learns from; bool [I] each."""
    rows = target.image_rows
    k = min(settings.folds, len(rows) // 2)
    if k < 2:
        return [(np.zeros(len(rows), dtype=bool), np.ones(len(rows), dtype=bool))]
    images = target.dataset.subset(rows)
    parts = folds(images, k, stretches=settings.fold_stretches, gap=settings.fold_gap)
    every = np.arange(len(rows))
    return [(np.isin(every, part.held_out), np.isin(every, part.rest)) for part in parts]


class LatBatches:
    """Step number to (`ProposalBatch`, `Targets`). Depends on nothing but the step.

    ``target_share`` of each batch are the target's images, the first of ``banks``; they and
    the others take turns in permutations of their own.
    """

    def __init__(
        self, banks: list[ProposalBank], joint: JointLabelSpace, settings: LatSettings
    ) -> None:
        self.banks = [bank for bank in banks if len(bank.image_rows)]
        self.datasets = len(banks)
        self.joint, self.settings = joint, settings
        self._starts = np.cumsum([0] + [len(bank.image_rows) for bank in self.banks])
        self._target = len(banks[0].image_rows)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, step: int) -> np.ndarray:
        """The images of a step, int64 [batch_size]: positions in all banks joined."""
        s, rest = self.settings, len(self) - self._target
        if s.target_share <= 0 or not self._target or not rest:
            return rows_of_step(len(self), step, s.batch_size, s.seed)
        # Fractions of an image add up over the steps.
        before, after = (math.floor(s.target_share * s.batch_size * k) for k in (step, step + 1))
        first = (before, after - before, s.seed)
        second = (s.batch_size * step - before, s.batch_size - after + before, s.seed + 1)
        return np.concatenate(
            [permuted(self._target, *first), self._target + permuted(rest, *second)]
        )

    def __call__(self, step: int) -> tuple[ProposalBatch, Targets]:
        s = self.settings
        rng = np.random.default_rng([s.seed, 3, step])
        items = []
        for index in self.rows(step):
            which = int(np.searchsorted(self._starts, index, side="right") - 1)
            bank = self.banks[which]
            i = int(index - self._starts[which])
            drawn = draw(bank.proposals[i], bank.position, s, rng, datasets=self.datasets)
            items.append((bank, i, *drawn))
        most = max(len(rows) for _, _, rows, *_ in items)
        return collate(items[own_part(len(items))], self.joint, most)


def collate(
    items: list[Any], joint: JointLabelSpace, least: int = 1
) -> tuple[ProposalBatch, Targets]:
    """Pad drawn proposals and annotations of several images into tensors.

    Args:
        items: (bank, place in it, proposal rows, scores, confidence) per image.
        least: minimum of M.
    """
    sizes, objects, classes, ignored = [], [], [], []
    for bank, i, *_ in items:
        row, images = int(bank.image_rows[i]), bank.dataset.images
        sizes.append((images.width[row], images.height[row]))
        truth = image_truth(bank.dataset, row)
        objects.append(truth[0])
        classes.append(joint.slice(bank.position).start + truth[1])
        ignored.append(truth[2])
    least = max(1, least)
    valid = _padded([np.ones(len(rows), bool) for _, _, rows, *_ in items], least=least)
    boxes = _padded([bank.proposals[i].boxes[rows] for bank, i, rows, *_ in items], least=least)
    boxes[~valid] = boxes.new_tensor([0, 0, 1, 1])
    batch = ProposalBatch(
        _padded(
            [bank.region[bank.offsets[i] + rows] for bank, i, rows, *_ in items], least=least
        ).float(),
        boxes,
        _padded([scores for *_, scores, _ in items], least=least),
        _padded([confidence for *_, confidence in items], least=least),
        valid,
        torch.tensor(sizes, dtype=torch.float32),
    )
    targets = Targets(
        _padded(objects),
        _padded(classes, fill=-1),
        _padded(ignored, least=0),
        torch.from_numpy(np.stack([joint.mask(bank.position) for bank, *_ in items])),
    )
    return batch, targets


def _padded(parts: list[np.ndarray], fill: float = 0, least: int = 1) -> torch.Tensor:
    """Arrays [n, ...] as one tensor [len(parts), max n but no less than ``least``, ...]."""
    shape = max(least, *map(len, parts)), *parts[0].shape[1:]
    out = np.full((len(parts), *shape), fill, parts[0].dtype)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return torch.from_numpy(out)


def hidden_predictions(
    model: TransferModel,
    bank: ProposalBank,
    joint: JointLabelSpace,
    settings: LatSettings,
    device: torch.device,
    datasets: int,
) -> list[HeldBack]:
    """Transfer into the images' own space with their annotations hidden.

    Every other label space takes its turn as the source; the list holds one entry per image and
    turn. Only the first ``datasets`` spaces of ``joint`` can be sources: the others have no
    annotations.
    """
    model.eval()
    seen = []
    target = joint.slice(bank.position)
    simulates = settings.has("simulated-source")
    others = [p for p in range(datasets) if p != bank.position]
    for i, row in enumerate(bank.image_rows.tolist()):
        boxes, classes, _ = image_truth(bank.dataset, row)
        for source in others if simulates else others[:1]:
            rng = np.random.default_rng([settings.seed, 4, i])
            p, own = bank.proposals[i], bank.position
            drawn = draw(p, own, settings, rng, simulated_source=source, training=False)
            batch = collate([(bank, i, *drawn)], joint)[0].to(device)
            with torch.inference_mode():
                scores, moved = predict_target(model(batch), batch, target, settings)
            used = p.take(drawn[0])
            place = used.variant == PLACE
            plays = (used.space == source) & ~place & simulates
            annotation = annotation_numbers(used, plays)
            found = candidates(scores[0, : len(used)], moved[0, : len(used)], annotation, place)
            played = used.plays[plays].astype(np.int64)
            seen.append(HeldBack(found, used.boxes[plays], played, boxes, classes))
    return seen


def _manner(dataset: DetectionDataset, rows: np.ndarray) -> Manner:
    annotated = [image_truth(dataset, int(row))[:2] for row in rows]
    return Manner(class_overlaps(annotated, dataset.space.num_classes), smallest_size(dataset))


def _pca_images(
    datasets: Mapping[str, DetectionDataset], rows: Mapping[str, np.ndarray], runtime: Runtime
) -> list[np.ndarray]:
    """An even spread of images over all datasets."""
    each = max(1, PCA_IMAGES // len(datasets))
    images = []
    for name, dataset in datasets.items():
        n = len(rows[name])
        picks = np.unique(np.linspace(0, n - 1, each).astype(int)) if n else []
        for row in rows[name][picks].tolist():
            try:
                images.append(load_rgb(dataset, row))
            except DataError:
                if not runtime.skip_bad:
                    raise
    return images
