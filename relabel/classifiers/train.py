"""Training an image classifier on soft multi-labels, and its predictions.

Shape legend: ``B`` images of a batch, ``C`` classes, ``S`` side of the square the network sees.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from relabel.backbones.heads import find_head
from relabel.classifiers.augment import mixed, mixing
from relabel.classifiers.data import (
    AugmentedBatches,
    BadImages,
    Batch,
    LabelledImages,
    ordered_batches,
)
from relabel.classifiers.model import Classifier, build_classifier, save_classifier
from relabel.classifiers.settings import ClassifierSettings
from relabel.errors import DataError, Problems
from relabel.settings import Runtime
from relabel.training.loop import (
    autocast,
    drop_checkpoint,
    fit,
    resolve_device,
    step_seed,
    total_steps,
)
from relabel.training.memory import keep_freed_memory
from relabel.training.shared import divisor, gathered
from relabel.workspace.atomic import atomic_write_json
from relabel.workspace.engine import Make, make_in_order
from relabel.workspace.progress import message, progress
from relabel.workspace.ranks import check_batch, on_all_ranks, rank

METRICS_FILE = "metrics.json"
TEST_BATCH = 64
_BATCHES_PER_ITEM = 8  # that an actor scores at a time
_CENTRE_IMAGES = 64


@on_all_ranks("validation")
def train_classifier(
    images: LabelledImages,
    out: Path,
    settings: ClassifierSettings,
    runtime: Runtime,
    *,
    validation: LabelledImages | None = None,
    problems: Problems | None = None,
) -> dict[str, Any]:
    """Train a classifier, resuming from the checkpoint in ``out`` if it has one.

    Args:
        images: the training images; those that `LabelledImages.usable` leaves out are skipped.
        out: receives what `save_classifier` writes, ``training.json`` and ``metrics.json``.
        validation: images to measure on, at ``eval_every`` and at the end; same classes.
        problems: with ``skip_bad`` images that cannot be decoded are replaced by the next ones
            and reported; default raises on the first.

    Returns:
        The content of ``metrics.json``: counts of images, last losses, validation results.

    Raises:
        DataError: nothing to learn from, or an image that cannot be read.
        ConfigError: the network is not available, or the batch cannot be shared by the processes.
    """
    check_batch(settings.batch_size, settings.section)
    usable = images.usable(settings.loss)
    if len(usable) == 0:
        raise DataError(
            f"none of the {len(images)} images has a label that the loss {settings.loss!r} can "
            "learn from",
            file=images.root,
            remedy="Check the labels; bce needs a class above 0, the others an original label.",
        )
    train = images.select(usable)
    skip_bad = problems is not None and problems.skip_bad
    bad = BadImages() if skip_bad else None
    model, kept = _new_model(train, settings, runtime, bad)
    out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(runtime.device)
    backbone = model.backbone_parameters() if settings.backbone_lr_scale != 1 else set()

    mix = mixing(settings)

    def losses(net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        pixels = batch.pixels.to(device, memory_format=torch.channels_last).float() / 255
        pixels, targets = mixed(pixels, batch.targets.to(device), mix, batch.seed)
        pixels, targets = pixels[batch.leading :], targets[batch.leading :]
        return {settings.loss: classification_loss(net(pixels), targets, settings)}

    def evaluate(_model: nn.Module, _step: int) -> dict[str, float]:
        assert validation is not None
        return measure_classifier(model, validation, runtime, bad=bad)

    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    result = fit(
        model,
        AugmentedBatches(train, settings, model.spec.image_size, bad=bad),
        losses,
        steps=total_steps(settings, len(train)),
        out=out,
        settings=settings,
        runtime=runtime,
        description=f"Training a classifier on {images.name}",
        backbone_parameters=backbone,
        evaluate=evaluate if validation is not None else None,
    )
    if bad is not None:
        for found in gathered(dict(bad)):
            bad.update(found)
    metrics = {
        "loss": settings.loss,
        "images": len(train),
        "skipped": len(images) - len(train),
        "unreadable": 0 if bad is None else len(bad),
        "kept_head": kept,
        "steps": result.steps,
        "losses": {k: round(v, 6) for k, v in result.losses.items()},
        "validation": result.history,
    }
    if rank() == 0:
        save_classifier(model, out)
        atomic_write_json(out / METRICS_FILE, metrics, indent=1)
        drop_checkpoint(out)
    if bad is not None and problems is not None:
        bad.report(problems)
    return metrics


def classification_loss(logits: Tensor, targets: Tensor, settings: ClassifierSettings) -> Tensor:
    """The loss of logits [B, C] under class probabilities [B, C], in float32.

    - ``bce``: binary cross-entropy, mean over images and classes; a target below 0 is unknown and
      does not count.
    - ``softmax``: cross-entropy with the targets as they are, mean over images.
    - ``smoothing``: the same with targets ``(1 - s) t + s / C`` (Szegedy et al., 2016).
    """
    logits = logits.float()
    if settings.loss == "bce":
        known = targets >= 0
        each = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), reduction="none")
        return (each * known).sum() / divisor(known.sum())
    if settings.loss == "smoothing":
        targets = (1 - settings.smoothing) * targets + settings.smoothing / targets.shape[1]
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def predict(
    model: Classifier,
    images: LabelledImages,
    runtime: Runtime,
    *,
    batch_size: int = TEST_BATCH,
    precision: str = "fp32",
    bad: BadImages | None = None,
    description: str = "Classifying",
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows int64 [B], probabilities float32 [B, C]) over all images in order.

    Args:
        model: on the device it runs on, in eval mode; the engine's actors get a copy.
        bad: receives images that cannot be decoded, which are left out; None raises.
    """
    batches = -(-len(images) // batch_size)
    if runtime.engine == "local":
        with progress(description, len(images), unit="images", quiet=runtime.quiet) as bar:
            for rows, scores in _scored(
                model, images, runtime, range(batches), batch_size, precision, bad
            ):
                if len(rows):
                    yield rows, scores
                bar.update(min(batch_size, len(images) - bar.done))
        return
    shipped, skip = copy.deepcopy(model).cpu(), bad is not None

    def open(runtime: Runtime) -> Make[tuple[list[tuple[np.ndarray, np.ndarray]], BadImages]]:
        here = shipped.to(resolve_device(runtime.device))

        def make(
            items: Sequence[int],
        ) -> Iterator[tuple[list[tuple[np.ndarray, np.ndarray]], BadImages]]:
            for i in items:
                only = range(i * _BATCHES_PER_ITEM, min((i + 1) * _BATCHES_PER_ITEM, batches))
                found = BadImages() if skip else None
                scored = _scored(here, images, runtime, only, batch_size, precision, found)
                yield [one for one in scored if len(one[0])], found or BadImages()

        return make

    parts = range(-(-batches // _BATCHES_PER_ITEM))
    for scored, found in make_in_order(
        open, parts, runtime, title=description, unit="parts", what="part"
    ):
        if bad is not None:
            bad.update(found)
        yield from scored


def _scored(
    model: Classifier,
    images: LabelledImages,
    runtime: Runtime,
    only: Sequence[int],
    batch_size: int,
    precision: str,
    bad: BadImages | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `predict` yields, of the batches ``only``; those without a readable image are empty."""
    device = next(model.parameters()).device
    for rows, pixels in ordered_batches(
        images, model.spec, batch_size, workers=runtime.workers, bad=bad, only=only
    ):
        scores = np.zeros((0, len(model.spec.classes)), np.float32)
        if len(rows):
            x = pixels.to(device, memory_format=torch.channels_last).float() / 255
            with torch.inference_mode(), autocast(precision, device):
                scores = model.probabilities(model(x)).cpu().numpy()
        yield rows, scores


def measure_classifier(
    model: Classifier,
    images: LabelledImages,
    runtime: Runtime,
    *,
    bad: BadImages | None = None,
) -> dict[str, float]:
    """Top-1, example-based and class-wise mAP (fractions) on images with labels.

    Labels count as true from probability 0.5 on; `UNKNOWN` ones count neither way. Images without
    a true label and unreadable ones are left out.

    Raises:
        DataError: no image has a true label.
    """
    from relabel.evaluation.multilabel.metrics import measure_labels
    from relabel.evaluation.multilabel.scores import DenseScores

    found, scores = [], []
    with torch.no_grad():
        for rows, values in predict(model, images, runtime, bad=bad, description="Validating"):
            found.append(rows)
            scores.append(values)
    seen = images.select(np.concatenate([*found, np.zeros(0, np.int64)]))
    truth, ignored = csr_array(seen.labels >= 0.5), csr_array(seen.labels < 0)
    kept = np.flatnonzero(np.diff(truth.indptr))
    if len(kept) == 0:
        raise DataError(
            "no validation image has a true label",
            file=images.root,
            remedy="Check --validate and --validate-labels.",
        )
    metrics = measure_labels(
        truth[kept],
        DenseScores(np.concatenate(scores), kept),
        ignored=ignored[kept],
        skipped=len(images) - len(kept),
    )
    return {
        "images": metrics.images,
        "top1": metrics.top1,
        "example_mAP": metrics.example_mAP,
        "class_mAP": metrics.class_mAP,
    }


def _new_model(
    train: LabelledImages, settings: ClassifierSettings, runtime: Runtime, bad: BadImages | None
) -> tuple[Classifier, bool]:
    """A model whose random weights depend on the seed alone, and whether it kept its head."""
    s = settings
    keep_freed_memory()
    torch.manual_seed(step_seed(s.seed, 0))
    bce = s.loss == "bce"
    labels_per_image = float(train.labels.data.clip(min=0).sum(dtype=np.float64)) / len(train)
    prior = float(np.clip(labels_per_image / len(train.class_names), 1e-4, 0.5))
    model, kept = build_classifier(
        s.model,
        train.class_names,
        train.class_keys,
        pretrained=s.weights == "pretrained",
        keep_head=s.keep_head,
        image_size=s.image_size,
        test_crop=s.test_crop,
        interpolation=s.interpolation,
        activation="sigmoid" if bce else "softmax",
        drop_path=s.drop_path,
        prior=prior if bce else None,
    )
    if s.keep_head and not kept:
        message(
            f"The classes of {s.model} are not those of {train.name}: its classification layer "
            "starts anew.",
            quiet=runtime.quiet,
        )
    model.frozen_norm = s.batch_norm == "frozen" or (
        s.batch_norm == "auto" and s.weights == "pretrained"
    )
    _mend_port(model)
    if bce and kept:
        _centre_logits(model, train, runtime, labels_per_image, bad)
    return model, kept


def _mend_port(model: Classifier) -> None:
    """Put right what transformers' MobileNets took over from TensorFlow as it stood there.

    Its decay of running statistics, 0.997, is torch's momentum of 0.003 and not 0.997, which keeps
    the last batch alone; its keep probability of 0.8 is a dropout of 0.2.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.momentum or 0) > 0.5:
            module.momentum = 0.1  # torch's default: 0.003 would be too slow for a short training
        elif isinstance(module, nn.Dropout) and module.p > 0.5:
            module.p = 1 - module.p


def _centre_logits(
    model: Classifier,
    train: LabelledImages,
    runtime: Runtime,
    labels_per_image: float,
    bad: BadImages | None,
) -> None:
    """Shift all biases so that the sigmoids of an image sum to the mean number of its labels.

    A softmax is blind to a constant added to all logits, so a layer trained under one has an
    arbitrary one; under a sigmoid, fine-tuning would begin by unlearning half of all classes.
    """
    device = resolve_device(runtime.device)
    model.to(device).eval()
    some = train.select(np.arange(min(_CENTRE_IMAGES, len(train))))
    logits = []
    with torch.inference_mode():
        for rows, pixels in ordered_batches(
            some, model.spec, _CENTRE_IMAGES, workers=runtime.workers, bad=bad
        ):
            if len(rows):
                logits.append(model(pixels.to(device).float() / 255).double().cpu())
    if not logits:
        return
    values = torch.cat(logits)
    low, high = -100.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        if float((values + middle).sigmoid().sum(dim=1).mean()) > labels_per_image:
            high = middle
        else:
            low = middle
    bias = find_head(model.net)[1].bias
    assert bias is not None
    with torch.no_grad():
        bias += (low + high) / 2
