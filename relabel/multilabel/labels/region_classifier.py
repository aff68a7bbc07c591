"""The region classifier: an MLP from a region's pooled feature to class probabilities.

Shape legend: ``N`` training regions, ``n`` regions, ``d`` channels, ``C`` classes. Published
settings: hidden width 1024, GELU, dropout 0.1, cross-entropy, AdamW 1e-4, batch 256. The epoch is
chosen on regions of held-out training images, never on evaluation labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relabel.errors import DataError
from relabel.files.json_text import read_object
from relabel.files.opening import said_of
from relabel.files.tensors import read_tensors
from relabel.multilabel.settings import RegionClassifierSettings
from relabel.settings import Runtime, settings_dict
from relabel.training.loop import drop_checkpoint, fit, resolve_device, step_seed
from relabel.training.settings import TrainSettings
from relabel.training.threads import one_thread_if_few
from relabel.workspace.atomic import atomic_path, atomic_write_json

WEIGHTS, CONFIG = "region_classifier.safetensors", "config.json"
_CHUNK = 16384


class RegionClassifier(nn.Module):
    """Linear, GELU, dropout, linear, on standardised features.

    The features' training mean and spread are part of the model, so that the published learning
    rate suits backbones of any scale. Classes without training regions have probability 0.
    """

    mean: Tensor
    scale: Tensor
    seen: Tensor

    def __init__(self, dim: int, classes: int, hidden: int = 1024, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim, self.classes, self.hidden, self.dropout = dim, classes, hidden, dropout
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("seen", torch.ones(classes, dtype=torch.bool))

    def forward(self, features: Tensor) -> Tensor:
        """float32 [n, d] to logits [n, C]; unseen classes have -inf."""
        logits = self.layers((features - self.mean) * self.scale)
        return logits.masked_fill(~self.seen, -math.inf)

    @torch.inference_mode()
    def predict(self, features: np.ndarray) -> np.ndarray:
        """float32 [n, C]: class probabilities of pooled features [n, d], any float type."""
        result = np.empty((len(features), self.classes), dtype=np.float32)
        for start in range(0, len(features), _CHUNK):
            part = torch.from_numpy(np.asarray(features[start : start + _CHUNK], dtype=np.float32))
            with one_thread_if_few(len(part)):
                result[start : start + len(part)] = self.probabilities(part).cpu().numpy()
        return result

    @torch.inference_mode()
    def probabilities(self, features: Tensor) -> Tensor:
        """float32 [n, C] on the model's device."""
        return self(features.to(self.mean.device, torch.float32)).softmax(1)

    def save(self, folder: str | Path, config: dict[str, Any]) -> None:
        """Write the weights and, last, ``config.json`` with ``config`` added."""
        from safetensors.torch import save_file

        folder = Path(folder)
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        with atomic_path(folder / WEIGHTS) as temp:
            save_file(tensors, temp)
        shape = {k: getattr(self, k) for k in ("dim", "classes", "hidden", "dropout")}
        atomic_write_json(
            folder / CONFIG, {"kind": "region_classifier", **shape, **config}, indent=1
        )

    @classmethod
    def load(cls, folder: str | Path, device: torch.device) -> RegionClassifier:
        """Read what `save` wrote, ready to predict.

        Raises:
            DataError: a file is missing or damaged, or the two do not fit.
        """
        folder = Path(folder)
        remedy = "Train it again: remove its folder and rerun the command."
        try:
            config = read_object(folder / CONFIG, remedy=remedy)
            if config.get("kind") != "region_classifier":
                raise ValueError(f"{CONFIG} is that of a {config.get('kind')}")
            model = cls(config["dim"], config["classes"], config["hidden"], config["dropout"])
            model.load_state_dict(read_tensors(folder / WEIGHTS))
        except Exception as error:
            raise DataError(
                f"not a readable region classifier: {said_of(error)}", file=folder, remedy=remedy
            ) from error
        return model.to(device).eval().requires_grad_(False)


@dataclass(frozen=True)
class _TrainSettings(TrainSettings):
    """The region classifier's settings as the training loop takes them."""

    section: ClassVar[str] = "region_classifier"


def train_region_classifier(
    features: np.ndarray,
    labels: np.ndarray,
    image_ids: np.ndarray,
    classes: int,
    out: str | Path,
    settings: RegionClassifierSettings,
    runtime: Runtime,
) -> dict[str, Any]:
    """Train a region classifier into the folder ``out``, resuming a training that was cut off
    there.

    Args:
        features: float16 or float32 [N, d], in memory or memory-mapped.
        labels: int [N] in 0 .. classes - 1.
        image_ids: int [N]; regions of one image are held out together.
        classes: C.

    Returns:
        JSON-ready metrics, also in ``config.json``: numbers of regions, images, held-out regions
        and classes seen, the steps done, the step chosen, and at that step the held-out
        cross-entropy ``val_loss`` and ``val_accuracy`` (None where nothing is held out). The
        validations of all epochs are in ``training.json``.

    Raises:
        DataError: no region, a label out of range, or features that are not finite.
    """
    out = Path(out)
    labels = np.asarray(labels, dtype=np.int64)
    image_ids = np.asarray(image_ids)
    _check(features, labels, image_ids, classes)
    held = held_out(image_ids, labels, settings.validation, settings.seed)
    train, val = np.flatnonzero(~held), np.flatnonzero(held)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(settings.seed, 0, 1))
        model = RegionClassifier(features.shape[1], classes, settings.hidden, settings.dropout)
    mean, scale = _moments(features, train)
    model.mean.copy_(mean)
    model.scale.copy_(scale)
    model.seen.copy_(torch.from_numpy(np.bincount(labels[train], minlength=classes) > 0))

    size = min(settings.batch_size, len(train))
    per_epoch = math.ceil(len(train) / size)
    steps = settings.steps or max(
        math.ceil(settings.epochs * len(train) / size), settings.min_steps
    )
    plan = _TrainSettings(
        steps=steps,
        batch_size=size,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        # The published recipe names a constant rate and no clipping.
        warmup=0.0,
        decay=0.0,
        grad_clip=0.0,
        precision="fp32",
        eval_every=per_epoch,
        seed=settings.seed,
    )
    order = _Order(train, settings.seed)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = order.rows(step * size, size)
        x = np.asarray(features[rows], dtype=np.float32)
        return torch.from_numpy(x), torch.from_numpy(labels[rows])

    device = resolve_device(runtime.device)

    def losses(net: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"cross-entropy": F.cross_entropy(net(data[0].to(device)), data[1].to(device))}

    best = _Best()

    def evaluate(net: nn.Module, step: int) -> dict[str, float]:
        scores = _validate(net, features, labels, val)
        best.offer(net, step, scores)
        return scores

    result = fit(
        model,
        batch,
        losses,
        steps=steps,
        out=out,
        settings=plan,
        runtime=runtime,
        description="Training the region classifier",
        evaluate=evaluate,
        stateful=(best,),
    )
    model.load_state_dict(best.weights)
    metrics = {
        "regions": len(labels),
        "images": len(np.unique(image_ids)),
        "held_out_regions": len(val),
        "held_out_images": len(np.unique(image_ids[val])),
        "classes_seen": int(model.seen.sum()),
        "steps": result.steps,
        "best_step": best.step,
        "val_loss": _rounded(best.scores.get("val_loss")),
        "val_accuracy": _rounded(best.scores.get("val_accuracy")),
    }
    model.save(out, {"settings": settings_dict(settings), "metrics": metrics})
    drop_checkpoint(out)
    return metrics


def held_out(image_ids: np.ndarray, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool [N]: the regions of a share of the images, chosen at random by image.

    An image stays in training if a class would otherwise have no training image left, so fewer
    are held out where classes are rare.
    """
    images, rows = np.unique(image_ids, return_inverse=True)
    count = round(share * len(images))
    pairs = np.unique(np.stack([rows, labels], axis=1), axis=0)
    starts = np.searchsorted(pairs[:, 0], np.arange(len(images) + 1))
    left = np.bincount(pairs[:, 1])  # training images of each class
    chosen = np.zeros(len(images), dtype=bool)
    taken = 0
    for image in np.random.default_rng(seed).permutation(len(images)):
        if taken >= count:
            break
        own = pairs[starts[image] : starts[image + 1], 1]
        if (left[own] > 1).all():
            left[own] -= 1
            chosen[image] = True
            taken += 1
    return chosen[rows]


class _Order:
    """The endless sequence of training rows: one permutation per epoch, without gaps."""

    def __init__(self, rows: np.ndarray, seed: int) -> None:
        self._rows = rows
        self._epoch = lru_cache(maxsize=3)(
            lambda epoch: rows[np.random.default_rng([seed, epoch]).permutation(len(rows))]
        )

    def rows(self, start: int, count: int) -> np.ndarray:
        found = []
        while count:
            epoch, at = divmod(start, len(self._rows))
            part = self._epoch(epoch)[at : at + count]
            found.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(found)


class _Best:
    """The weights with the lowest held-out loss so far; part of the checkpoint."""

    def __init__(self) -> None:
        self.step = 0
        self.scores: dict[str, float] = {}
        self.weights: dict[str, Tensor] = {}

    def offer(self, net: nn.Module, step: int, scores: dict[str, float]) -> None:
        """Keep the net if it is better, or if nothing is held out to tell."""
        new, old = scores.get("val_loss"), self.scores.get("val_loss")
        if new is None or old is None or new < old:
            self.step, self.scores = step, scores
            self.weights = {
                k.removeprefix("module."): v.detach().cpu().clone()
                for k, v in net.state_dict().items()
            }

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "scores": dict(self.scores), "weights": dict(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.scores = int(state["step"]), dict(state["scores"])
        self.weights = dict(state["weights"])


@torch.inference_mode()
def _validate(
    net: nn.Module, features: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> dict[str, float]:
    if not len(rows):
        return {}
    device = next(net.parameters()).device
    loss = torch.zeros((), dtype=torch.float64, device=device)
    right = torch.zeros((), dtype=torch.long, device=device)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        x = torch.from_numpy(np.asarray(features[part], dtype=np.float32)).to(device)
        y = torch.from_numpy(labels[part]).to(device)
        logits = net(x)
        loss += F.cross_entropy(logits.double(), y, reduction="sum")
        right += (logits.argmax(1) == y).sum()
    return {"val_loss": float(loss) / len(rows), "val_accuracy": int(right) / len(rows)}


def _moments(features: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """(mean, 1 / standard deviation) per channel over the rows, in fp64, chunk by chunk."""
    total = np.zeros(features.shape[1])
    for start in range(0, len(rows), _CHUNK):
        total += features[rows[start : start + _CHUNK]].astype(np.float64).sum(0)
    mean = total / len(rows)
    if not np.isfinite(mean).all():
        raise DataError("features are NaN or infinite", remedy="Run the backbone in fp32.")
    squares = np.zeros_like(mean)
    for start in range(0, len(rows), _CHUNK):
        part = features[rows[start : start + _CHUNK]].astype(np.float64)
        squares += np.square(part - mean).sum(0)
    spread = np.sqrt(squares / len(rows))
    # A channel that (nearly) never varies in training must not explode on new images.
    floor = 1e-3 * max(float(np.sqrt(np.mean(spread**2))), 1e-12)
    scale = np.where(spread > floor, 1 / np.maximum(spread, floor), 0.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(scale).float()


def _check(features: np.ndarray, labels: np.ndarray, image_ids: np.ndarray, classes: int) -> None:
    if not len(features) == len(labels) == len(image_ids):
        raise ValueError(
            f"{len(features)} features, {len(labels)} labels, {len(image_ids)} image ids"
        )
    if not len(labels):
        raise DataError(
            "the filter selected no region, so there is nothing to train the region classifier on",
            remedy="Lower the threshold of the filter, or check the label maps and their axes.",
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise DataError(f"a region has label {wrong}, outside 0..{classes - 1}")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
