"""How long a run of align will take on this machine.

Real networks do a few real steps on the plan's own images before anything else runs; what they
took is scaled to all stages. The machine's other work slows the probe as it slows the run.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relabel.align.plan import AlignPlan
from relabel.errors import RelabelError
from relabel.lat.settings import SHARD_IMAGES
from relabel.settings import Runtime
from relabel.workspace.cores import usable_cores
from relabel.workspace.engine import workers
from relabel.workspace.estimate import Forecast, announced, free_bytes

if TYPE_CHECKING:
    import torch

    from relabel.datasets.dataset import DetectionDataset
    from relabel.detectors.family import Trainable

# Measured in the demo world and on photos; they decide how long a step of LAT is.
_LABELS_PER_OBJECT = 3.0  # pseudo-labels by one specialist
_DRAWN = 0.6  # share of an image's proposals in a training step
_LONG = 4.0  # seconds from which the first, slower step is probe enough
_SECONDS_PER_PICTURE = 0.1
_SECONDS_PER_RESULT_IMAGE = 0.01
_BOX_BYTES, _IMAGE_BYTES = 24, 60  # of a label beside its scores, of an image's name and size


@dataclass(frozen=True)
class Costs:
    """Seconds on this machine.

    Attributes:
        step: one training step of a specialist.
        maps: an image's maps of a frozen backbone, which are kept; 0 where it learns.
        detect: an image through a specialist.
        pool: an image's proposals, pooled for LAT.
        lat_step: one training step of LAT.
        lat_image: an image through LAT.
        map_bytes: of an image's kept maps.
    """

    step: float
    maps: float
    detect: float
    pool: float
    lat_step: float
    lat_image: float
    map_bytes: float = 0.0


def expected_seconds(plan: AlignPlan, images: Mapping[str, int] | None = None) -> dict[str, float]:
    """Seconds of every stage of a plan, by name; none where the networks cannot be tried.

    What stands in the way of the probe is told by the stage that it stands in the way of.

    Args:
        images: number of training images by dataset, where the plan's are samples of them.
    """
    counts = images or {name: len(dataset) for name, dataset in plan.datasets.items()}
    cost = _costs(plan)
    return {} if cost is None else _lengths(plan, cost, counts)


def _costs(plan: AlignPlan) -> Costs | None:
    """None where the networks cannot be tried."""
    import torch

    state = torch.get_rng_state()
    try:
        return _measured(plan)
    except (RelabelError, RuntimeError, OSError, MemoryError):
        return None
    finally:
        torch.set_rng_state(state)


def forecast(plan: AlignPlan) -> Forecast:
    """What is left of a run: every image once per stage that goes through it.

    Trainings run on this machine, what is made of shards by all workers. Bytes are those of kept
    maps, labels and transferred boxes before they are compressed.
    """
    from relabel.training.loop import resolve_device

    counts = {name: len(dataset) for name, dataset in plan.datasets.items()}
    runs = {stage.name for stage in plan.to_run()}
    made = {stage.name: on for (_, on), stage in plan.labels.items() if stage.name in runs}
    moved = {stage.name: on for on, stage in plan.transfers.items() if stage.name in runs}
    size = plan.settings.crosslabel.shard_images
    shards = sum(math.ceil(counts[on] / size) for on in made.values())
    shards += sum(math.ceil(counts[on] / SHARD_IMAGES) for on in moved.values())
    device = resolve_device(plan.runtime.device).type
    team = workers(plan.runtime, device)
    gone_through = [*made.values(), *moved.values()]
    images = sum(counts[on] for on in gone_through)
    told = Forecast(images, shards, None, None, free_bytes(plan.out), team.count, team.where)
    if not runs:
        return replace(told, seconds=0.0, bytes=0)
    cost = _costs(plan)
    if cost is None:
        return told
    lengths = _lengths(plan, cost, counts)
    share = team.cores / usable_cores() if device == "cpu" else team.count
    seconds = sum(
        lengths.get(name, 0.0) / (share if name in made or name in moved else 1) for name in runs
    )
    kept = sum(counts[n] * cost.map_bytes for n, s in plan.specialists.items() if s.name in runs)
    labels = sum(counts[on] * _label_bytes(plan, plan.datasets[on]) for on in gone_through)
    return replace(told, seconds=seconds, bytes=math.ceil(kept + labels))


def _label_bytes(plan: AlignPlan, dataset: DetectionDataset) -> float:
    """Of an image's labels by one specialist: boxes with a score of every class."""
    classes = max(d.space.num_classes for d in plan.datasets.values())
    objects = len(dataset.boxes) / max(1, len(dataset))
    return _LABELS_PER_OBJECT * objects * (4 * classes + _BOX_BYTES) + _IMAGE_BYTES


def announcement(plan: AlignPlan, known: Mapping[str, float] | None = None) -> str:
    """How long the run will take, in a line, empty where that is not known.

    The plan learns what is expected of its stages, and says what is left while it runs.

    Args:
        known: seconds by stage from `expected_seconds`, where they were measured before.
    """
    from relabel.training.loop import resolve_device

    plan.expected = dict(known or expected_seconds(plan))
    left = parts(plan, plan.expected)
    return announced(left, resolve_device(plan.runtime.device).type) if left else ""


def parts(plan: AlignPlan, seconds: Mapping[str, float]) -> dict[str, float]:
    """The seconds of the stages that are still to run, by what they are for."""
    left = [stage.name for stage in plan.to_run() if stage.name in seconds]
    titles = {"specialist": "specialists", "labels": "labels", "LAT": "transfer"}
    titles |= {"transfer": "transfer", "result": "report"}
    found: dict[str, float] = {}
    for name in left:
        title = titles[name.split()[0]]
        found[title] = found.get(title, 0.0) + seconds[name]
    return found


def _lengths(plan: AlignPlan, cost: Costs, images: Mapping[str, int]) -> dict[str, float]:
    from relabel.training.loop import total_steps

    specialist, lat = plan.settings.specialist, plan.settings.lat
    seconds: dict[str, float] = {}
    for name in plan.datasets:
        steps = total_steps(specialist, images[name])
        seconds[plan.specialists[name].name] = steps * cost.step + images[name] * cost.maps
        k = len(plan.folds[name])
        for fold in plan.folds[name]:
            rest = max(1, round(images[name] * (k - 1) / k))
            seconds[fold.name] = total_steps(specialist, rest) * cost.step
    for (by, on), stage in plan.labels.items():
        if by not in plan.prompted_detectors:
            members = 1 if by == on else len(stage.needs)
            seconds[stage.name] = members * images[on] * cost.detect
    used = {n: min(count, lat.max_images or count) for n, count in images.items()}
    models = max(1, min(lat.folds, images[plan.target] // 2))
    steps = models * total_steps(lat.training, sum(used.values()))
    hidden = used[plan.target] * max(1, len(plan.sources)) * (models > 1)
    seconds[plan.lat.name] = (
        sum(used.values()) * cost.pool + steps * cost.lat_step + hidden * cost.lat_image
    )
    for source, stage in plan.transfers.items():
        seconds[stage.name] = images[source] * (cost.pool + models * cost.lat_image)
    pictures = plan.settings.align.pictures * len(plan.sources)
    seconds[plan.result.name] = (
        1 + pictures * _SECONDS_PER_PICTURE + sum(images.values()) * _SECONDS_PER_RESULT_IMAGE
    )
    return seconds


def _measured(plan: AlignPlan) -> Costs:
    import torch

    from relabel.datasets.pixels.location import load_rgb
    from relabel.detectors.specialist import TrainingBatches
    from relabel.detectors.training import new_trainable, on_device
    from relabel.training.loop import autocast, build_optimizer, resolve_device

    # Weights do not change how long a network takes, and may have to be fetched.
    s, target = replace(plan.settings.specialist, pretrained=False), plan.datasets[plan.target]
    device = resolve_device(plan.runtime.device)
    quiet = Runtime(device=plan.runtime.device, workers=plan.runtime.workers, quiet=True)
    few = target.subset(np.arange(min(len(target), s.batch_size)))
    trainable = new_trainable(target.space, s)
    model: Any = trainable.model.to(device)
    optimizer = build_optimizer(model, s, trainable.backbone_parameters())
    with tempfile.TemporaryDirectory() as folder:
        store = trainable.map_store(Path(folder), device)
        started = time.perf_counter()
        batches = TrainingBatches(few, s, model.divisor, store, quiet)
        maps = (time.perf_counter() - started) / len(few) if store is not None else 0.0
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        map_bytes = sum(path.stat().st_size for path in files) / len(few)
        batch = on_device(batches(0), device)
        reading = _seconds(lambda: batches(0), device)
        detector = trainable.detector(device)
        images = [load_rgb(few, row) for row in range(min(4, len(few)))]
        rows = list(range(len(images)))

        def labels() -> object:
            if store is None:
                return detector.predict(images)
            return detector.predict_kept(store, few, rows, batches.files)

        detect = _seconds(labels, device) / len(images)
    model.train()

    def step() -> None:
        with autocast(s.precision, device):
            losses = model(*batch)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    # Images are read in threads, but by the cores that train.
    taken = _seconds(step, device) + reading / usable_cores()
    lat = _lat(plan, trainable, images, device)
    return Costs(taken, maps, detect + reading / len(few), *lat, map_bytes)


def _lat(
    plan: AlignPlan, trainable: Trainable, images: list[np.ndarray], device: torch.device
) -> tuple[float, float, float]:
    """Seconds to pool an image, for a training step, and for an image through the model."""
    import torch

    from relabel.lat.features import SPECIALIST, FrozenFeatures
    from relabel.lat.model import ProposalBatch, Targets, TransferModel, lat_losses
    from relabel.lat.proposals import MAX_PER_SPACE
    from relabel.training.loop import autocast, build_optimizer

    s, target = plan.settings.lat, plan.datasets[plan.target]
    if s.backbone == SPECIALIST:
        network: Any = trainable.model
        features = FrozenFeatures(network.backbone.body, s, device, SPECIALIST)
    else:
        features = FrozenFeatures.create(s, device)
    objects = max(1, round(len(target.boxes) / len(target)))
    spaces = len(plan.datasets) + len(plan.prompted_detectors)
    proposals = max(1, round(spaces * min(MAX_PER_SPACE, _LABELS_PER_OBJECT * objects)))
    rng = np.random.default_rng(0)
    features.fit_pca(images[:2])
    boxes = [_boxes(rng, proposals, image.shape) for image in images[:2]]
    pool = _seconds(lambda: features.pool(images[: len(boxes)], boxes), device) / len(boxes)

    b, m = s.batch_size, max(1, round(_DRAWN * proposals))
    classes = sum(d.space.num_classes for d in plan.datasets.values())
    classes += len(plan.prompted_detectors) * target.space.num_classes
    model = TransferModel(s, classes, spaces, features.width).to(device)
    optimizer = build_optimizer(model, s.training, set())
    height, width = images[0].shape[:2]
    region = np.zeros((b * m, features.width), np.float16)
    at = torch.from_numpy(_boxes(rng, b * m, images[0].shape).reshape(b, m, 4)).to(device)
    scores = torch.rand(b, m, classes, device=device)
    size = torch.tensor([[width, height]] * b, device=device).float()
    valid = torch.ones(b, m, dtype=torch.bool, device=device)
    goals = Targets(
        at[:, :objects].clone(),
        torch.randint(classes, (b, min(objects, m)), device=device),
        torch.zeros(b, 0, 4, device=device),
        torch.ones(b, classes, dtype=torch.bool, device=device),
    )

    def batch() -> ProposalBatch:
        read = torch.from_numpy(region.astype(np.float32).reshape(b, m, -1)).to(device)
        return ProposalBatch(read, at, scores, scores.amax(-1), valid, size)

    def forward() -> dict[str, torch.Tensor]:
        with autocast(s.precision_on(device.type), device):
            logits, deltas = model(given := batch())
        return lat_losses(logits, deltas, given, goals, s)

    def step() -> None:
        torch.stack(list(forward().values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return pool, _seconds(step, device), _seconds(lambda: forward(), device) / b * 2


def _boxes(rng: np.random.Generator, n: int, shape: tuple[int, ...]) -> np.ndarray:
    """float32 [n, 4] xyxy somewhere in an image."""
    first = rng.uniform(0, 0.8, (n, 2))
    both = np.concatenate([first, first + rng.uniform(0.05, 0.2, (n, 2))], axis=1)
    return (both * np.array([shape[1], shape[0]] * 2)).astype(np.float32)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of a call, after a first one that does not count unless it is long."""
    taken = _timed(work, device)
    return taken if taken > _LONG else _timed(work, device)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    import torch

    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
