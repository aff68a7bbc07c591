"""Completed labels: the probability of every class, and where it comes from.

Shape legend: ``N`` images, ``B`` images of a batch, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from relabel.datasets.partial.labels import PRESENT, PartialLabels
from relabel.errors import ConfigError
from relabel.partial.features import Inputs, passes
from relabel.partial.model import check_inputs, load_model
from relabel.settings import Runtime
from relabel.training.loop import resolve_device
from relabel.workspace.progress import progress

SOURCES = ("classifier", "known", "ist", "cst")
"""Where a label comes from, by the number in `Prediction.source`."""
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Prediction:
    """Completed labels of n images.

    Attributes:
        scores: float32 [n, C], probabilities; of known labels 1 or 0.
        source: uint8 [n, C], see `SOURCES`: ``known``; ``ist`` and ``cst`` where that transfer
            takes an unknown label for present, ``ist`` where both do; else ``classifier``.
    """

    scores: np.ndarray
    source: np.ndarray


def predict(
    folder: Path,
    inputs: Inputs,
    runtime: Runtime | None = None,
    *,
    labels: PartialLabels | None = None,
) -> Prediction:
    """All of `predict_batches`, in memory."""
    parts = [p for _, p in predict_batches(folder, inputs, runtime, labels=labels)]
    scores = np.concatenate([p.scores for p in parts])
    return Prediction(scores, np.concatenate([p.source for p in parts]))


def predict_batches(
    folder: Path,
    inputs: Inputs,
    runtime: Runtime | None = None,
    *,
    labels: PartialLabels | None = None,
) -> Iterator[tuple[np.ndarray, Prediction]]:
    """(rows int64 [B], their `Prediction`) over all images in order, memory flat in N.

    Args:
        folder: what `relabel.partial.train.train` or `refit` returned.
        inputs: of any images, by the backbone that the training had.
        labels: what is known of the images, in their order; None: nothing. Known labels stay as
            they are, and transfers start from them. Classes are those of the training.

    Raises:
        DataError: the folder is incomplete or damaged.
        ConfigError: inputs of another backbone or size, or labels with other classes or images.
    """
    runtime = Runtime(quiet=True) if runtime is None else runtime
    model, calibration, config = load_model(folder)
    check_inputs(folder, config, inputs)
    classes = tuple(config["classes"])
    if labels is not None and (labels.classes != classes or len(labels) != len(inputs)):
        raise ConfigError(
            "the labels have other classes or images than the training and its inputs",
            file=folder,
        )
    device = resolve_device(runtime.device)
    model.to(device)
    prior = np.array(config["prior"], np.float32)
    with progress("Completing labels", len(inputs), unit="img", quiet=runtime.quiet) as bar:
        for rows in passes(len(inputs), _BATCH):
            known = np.zeros((len(rows), len(classes)), np.int8)
            if labels is not None:
                known = labels.dense(rows)
            with torch.inference_mode():
                maps = model.maps(inputs.batch(rows))
                logits = model.method.logits(maps)
                found = model.method.transfers(maps, torch.from_numpy(known).to(device))
            scores = calibration.probabilities(logits.double().cpu().numpy())
            source = np.zeros(scores.shape, np.uint8)
            for name in ("cst", "ist"):
                if name in found:
                    source[found[name].cpu().numpy()] = SOURCES.index(name)
            dark = ~inputs.readable[rows]
            scores[dark], source[dark] = prior, 0
            told = known != 0
            scores[told] = known[told] == PRESENT
            source[told] = SOURCES.index("known")
            yield rows, Prediction(scores, source)
            bar.update(len(rows))
