"""Training a method on partial labels.

Shape legend: ``N`` images, ``B`` images of a batch, ``C`` classes, ``D`` channels of the maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from relabel.datasets.partial.labels import PRESENT, PartialLabels
from relabel.errors import ConfigError, DataError, StageError
from relabel.files.json_text import read_object
from relabel.partial.body import Body, build_body
from relabel.partial.calibrate import Calibration, fit_calibration, hold_back
from relabel.partial.embeddings import class_embeddings, embeddings_identity
from relabel.partial.features import Features, Inputs, passes
from relabel.partial.methods.base import Setup
from relabel.partial.methods.clip_prompt import text_width
from relabel.partial.methods.registry import METHODS
from relabel.partial.model import CONFIG, Model, build_model, load_model, save_model
from relabel.partial.networks.graph import label_cooccurrence
from relabel.partial.settings import CLIP_PROMPT, CompletionSettings
from relabel.settings import Runtime
from relabel.training.loop import drop_checkpoint, fit, resolve_device, step_seed, total_steps
from relabel.training.order import rows_of_step
from relabel.workspace.atomic import atomic_write_json
from relabel.workspace.fingerprint import fingerprint

HELD_BACK = "held_back"
_RUN = "run.json"
_SMOOTHING = 5.0
"""Images that each pair of classes has beside those seen, with how often classes are present."""
_MOMENT_IMAGES, _PREDICT_BATCH = 1000, 64
_REMEDY = "Choose another --out, or remove the folder."


@dataclass(frozen=True)
class Batch:
    """A training batch: inputs as `Inputs.batch` gives them, labels int8 [B, C], the step."""

    inputs: Tensor
    known: Tensor
    step: int


def needs_maps(settings: CompletionSettings) -> bool:
    """Whether the method reads places; for `open_inputs`."""
    return METHODS[settings.method].needs_maps


def train(
    labels: PartialLabels,
    inputs: Inputs,
    out: Path,
    settings: CompletionSettings,
    runtime: Runtime,
) -> Path:
    """Train a method into the folder ``out``, resuming one that was cut off there.

    With ``held_back`` above 0 a second training without a share of the known labels comes first,
    in a folder below ``out``; on its scores of that share the final one's are calibrated, and
    `relabel.partial.refit` chooses by it. What the final training learns from is not reduced.

    Args:
        inputs: of the labels' images, in their order; see `open_inputs`.

    Returns:
        ``out``, for `relabel.partial.predict.predict`. If it is finished already, at once.

    Raises:
        DataError: no label is known, or no readable image has one.
        ConfigError: inputs of another number of images, or for another kind of method.
        StageError: the folder holds a training on other labels or with other settings.
    """
    _check(labels, inputs, settings)
    key = _key(labels, inputs, settings)
    if _is_finished(out, key):
        return out
    calibration = Calibration.none(labels.num_classes)
    if settings.held_back > 0:
        calibration = _held_back_calibration(labels, inputs, out, settings, runtime)
    model, steps = _trained(labels, inputs, out, settings, runtime)
    save_model(
        model,
        out,
        classes=labels.classes,
        settings=settings,
        identity=inputs.identity,
        calibration=calibration,
        more={
            "key": key,
            "steps": steps,
            "labels": labels.fingerprint(),
            "prior": prior_of(labels).tolist(),
        },
    )
    drop_checkpoint(out)
    return out


def prior_of(labels: PartialLabels) -> np.ndarray:
    """float64 [C]: how often each class is present among its known labels.

    A class of which nothing is known, or a single kind, has what it shares with all others in it.
    Where nothing at all is known absent, labels list only what is present, and the share is that
    of all images.
    """
    present, absent = labels.counts()
    known = present + absent if absent.any() else np.full_like(present, len(labels))
    shared = (present.sum() + 0.5) / (max(1, int(known.sum())) + 1)
    return (present + shared) / (known + 1)


def check_some_known(labels: PartialLabels) -> None:
    """Refuse labels of which none is known.

    Raises:
        DataError: none is.
    """
    if labels.known.nnz == 0:
        raise DataError(
            f"nothing is known of the {len(labels)} images of {labels.name!r}",
            file=labels.root,
            remedy="Give labels of which some are known, or a greater --known.",
        )


def _check(labels: PartialLabels, inputs: Inputs, settings: CompletionSettings) -> None:
    if len(labels) != len(inputs):
        raise ConfigError(f"{len(inputs)} inputs do not belong to {len(labels)} images")
    check_some_known(labels)
    some = np.diff(labels.known.indptr) > 0
    if not (some & inputs.readable).any():
        raise DataError(
            "no image that can be read has a known label",
            file=labels.root,
            remedy="Check the image folder.",
        )
    if isinstance(inputs, Features) != settings.frozen:
        raise ConfigError("inputs of a frozen backbone do not fit frozen=false, or the other way")
    if (
        isinstance(inputs, Features)
        and METHODS[settings.method].needs_maps
        and inputs.maps.shape[2:] == (1, 1)
    ):
        raise ConfigError(
            f"{settings.method} reads places, and the maps' means were kept alone",
            remedy="Open the inputs with maps=True, or choose a larger image_size.",
        )


def _key(labels: PartialLabels, inputs: Inputs, settings: CompletionSettings) -> str:
    """Stands for all that the trained folder depends on."""
    embeddings = ""
    if METHODS[settings.method].needs_embeddings:
        embeddings = embeddings_identity(settings.embeddings)
    return fingerprint(
        [
            settings.result_dict(),
            settings.held_back,
            inputs.identity,
            inputs.readable,
            labels.fingerprint(),
            embeddings,
        ]
    )


def _is_finished(out: Path, key: str) -> bool:
    """Whether the folder holds this training; makes it, and notes what is trained there."""
    for name in (CONFIG, _RUN):
        if (out / name).is_file() and read_object(out / name, remedy=_REMEDY).get("key") != key:
            raise StageError(
                "holds a training with other labels, images or settings", file=out, remedy=_REMEDY
            )
    if (out / CONFIG).is_file():
        return True
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_json(out / _RUN, {"key": key})
    return False


def _held_back_calibration(
    labels: PartialLabels,
    inputs: Inputs,
    out: Path,
    settings: CompletionSettings,
    runtime: Runtime,
) -> Calibration:
    part = hold_back(labels, settings.held_back, settings.seed)
    some = np.diff(part.left.known.indptr) > 0
    if not part.held.any() or not (some & inputs.readable).any():
        return Calibration.none(labels.num_classes)
    less = replace(settings, held_back=0.0)
    folder = train(part.left, inputs, out / HELD_BACK, less, runtime)
    model, _, _ = load_model(folder)
    found = held_back_logits(model, labels, part.held, inputs, runtime)
    return fit_calibration(*found, labels.num_classes, part.weight)


def held_back_logits(
    model: Model,
    labels: PartialLabels,
    held: np.ndarray,
    inputs: Inputs,
    runtime: Runtime,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits float64 [n], present bool [n] and classes int [n] of the held-back entries.

    Args:
        held: bool over the labels' stored entries; those of unreadable images are left out.
    """
    model.to(resolve_device(runtime.device)).eval()
    entries = np.flatnonzero(held)
    images = np.searchsorted(labels.known.indptr, entries, side="right") - 1
    entries, images = entries[inputs.readable[images]], images[inputs.readable[images]]
    classes = labels.known.indices[entries]
    found = np.empty(len(entries))
    rows, starts = np.unique(images, return_index=True)
    ends = np.append(starts, len(entries))
    for part in passes(len(rows), _PREDICT_BATCH):
        mine = slice(ends[part[0]], ends[part[-1] + 1])
        with torch.inference_mode():
            logits = model.method.logits(model.maps(inputs.batch(rows[part])))
        places = np.searchsorted(rows[part], images[mine])
        found[mine] = logits.double().cpu().numpy()[places, classes[mine]]
    return found, labels.known.data[entries] == PRESENT, classes


def _trained(
    labels: PartialLabels,
    inputs: Inputs,
    out: Path,
    settings: CompletionSettings,
    runtime: Runtime,
) -> tuple[Model, int]:
    """The model after its last step, in eval mode, and the number of steps."""
    method = METHODS[settings.method]
    usable = inputs.readable
    if not method.learns_from_unknown:
        usable = usable & (np.diff(labels.known.indptr) > 0)
    rows = np.flatnonzero(usable)
    size = min(settings.batch_size, len(rows))
    plan = replace(settings, batch_size=size)
    steps = total_steps(plan, len(rows))
    device = resolve_device(runtime.device)
    model = _new_model(labels, inputs, settings, steps, device)

    def batch(step: int) -> Batch:
        some = rows[rows_of_step(len(rows), step, size, settings.seed)]
        values = inputs.batch(some, seed=[settings.seed, 2, step])
        return Batch(values, torch.from_numpy(labels.dense(some)), step)

    def losses(net: nn.Module, data: Batch) -> dict[str, Tensor]:
        return net(data.inputs, data.known, data.step)

    def training_pass() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            known = torch.from_numpy(labels.dense(some)).to(device)
            yield model.maps(inputs.batch(some)), known

    due = model.method.refresh_steps()
    backbone = () if model.body is None else model.body.parameters()

    def after_step(_net: nn.Module, step: int) -> None:
        if step in due:
            model.eval()
            with torch.no_grad():
                model.method.refresh(step, training_pass)

    fit(
        model,
        batch,
        losses,
        steps=steps,
        out=out,
        settings=plan,
        runtime=runtime,
        description=f"Training {settings.method} on {labels.name}",
        backbone_parameters={id(p) for p in backbone},
        rates={id(p): rate for p, rate in model.method.own_rates()},
        after_step=after_step,
    )
    model.eval()
    with torch.no_grad():
        model.method.finish()
    return model, steps


def _new_model(
    labels: PartialLabels,
    inputs: Inputs,
    settings: CompletionSettings,
    steps: int,
    device: torch.device,
) -> Model:
    """A model whose random weights depend on the seed alone."""
    method = METHODS[settings.method]
    body = None
    if isinstance(inputs, Features):
        channels = inputs.channels
    else:
        body = build_body(settings)
        assert isinstance(body, Body)
        channels = body.channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(settings.seed, 0, 1))
        embeddings = None
        if method.needs_embeddings:
            embeddings = class_embeddings(settings.embeddings, labels.classes)
        setup = Setup(
            labels.classes,
            channels,
            torch.from_numpy(label_cooccurrence(labels.known, _SMOOTHING)),
            torch.from_numpy(prior_of(labels)).float(),
            embeddings,
            settings,
            steps,
            text_width(settings.backbone) if settings.method == CLIP_PROMPT else 0,
        )
        model = build_model(setup, body).to(device)
    some = np.flatnonzero(inputs.readable)[:_MOMENT_IMAGES]
    model.standardise(inputs.batch(some[part]) for part in passes(len(some), 32))
    return model
