"""Category-wise fine-tuning: each class's logistic regression refitted on its known labels.

Shape legend: ``n`` images in which a class is known, ``C`` classes, ``h`` channels of what the last
layer reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse import csc_array
from scipy.special import expit, log_expit
from torch import Tensor

from relabel.datasets.partial.labels import PRESENT, PartialLabels
from relabel.errors import StageError
from relabel.files.json_text import read_object
from relabel.partial.calibrate import Calibration, fit_calibration, hold_back
from relabel.partial.features import Inputs
from relabel.partial.model import CONFIG, Model, check_inputs, load_model, save_model
from relabel.partial.settings import CompletionSettings
from relabel.partial.train import HELD_BACK, held_back_logits
from relabel.settings import Runtime, settings_from
from relabel.training.loop import resolve_device
from relabel.workspace.fingerprint import fingerprint
from relabel.workspace.progress import progress

PULLS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""How strongly weights are pulled to the trained ones, strongest first: what is tried."""
DEFAULT_PULL = 0.1
"""Where nothing was held back to choose by."""
_BATCH = 64
_MOST_CELLS = 1 << 27
"""Numbers of hidden features that are in memory at once: 512 MB."""
_ROUNDS = 200


def refit(
    trained: Path, labels: PartialLabels, inputs: Inputs, out: Path, runtime: Runtime
) -> Path:
    """Refit the last layer of a finished training, class by class, into the folder ``out``.

    Each class's weights and bias minimise the mean cross-entropy over its known labels alone, with
    a quadratic pull to the trained ones (CFT, arXiv 2401.16991, section III, whose early stopping
    and genetic algorithm need validation labels of every class). How strong the pull is, and
    whether anything is refitted at all, is chosen for all classes together by the mean average
    precision on the labels that were held back, on the training that did without them. Without one
    the pull is `DEFAULT_PULL`. A class without known labels of both kinds keeps its weights.

    Args:
        trained: what `relabel.partial.train.train` returned for the same labels and inputs.

    Returns:
        ``out``, for `relabel.partial.predict.predict`.

    Raises:
        DataError: the trained folder is incomplete or damaged.
        ConfigError: inputs of another backbone or size.
        StageError: the training was on other labels, or ``out`` holds something else.
    """
    model, calibration, config = load_model(trained)
    check_inputs(trained, config, inputs)
    if config["labels"] != labels.fingerprint():
        raise StageError(
            "was trained on other labels",
            file=trained,
            remedy="Refit with the labels of the training.",
        )
    key = fingerprint([config["key"], "refit", PULLS])
    if (out / CONFIG).is_file():
        if read_object(out / CONFIG).get("key") != key:
            raise StageError(
                "holds another training", file=out, remedy="Choose another folder, or remove it."
            )
        return out
    settings = settings_from(CompletionSettings, config["settings"], where=CONFIG)
    pull: float | None = DEFAULT_PULL
    below = trained / HELD_BACK
    if settings.held_back > 0 and (below / CONFIG).is_file():
        pull, calibration = _choose(below, labels, inputs, settings, runtime)
    if pull is not None:
        refit_model(model, labels, inputs, (pull,), runtime)[0].put(model)
    out.mkdir(parents=True, exist_ok=True)
    kept = ("steps", "prior", "labels")
    save_model(
        model,
        out,
        classes=labels.classes,
        settings=settings,
        identity=inputs.identity,
        calibration=calibration,
        more={"key": key, "refitted": pull, **{name: config[name] for name in kept}},
    )
    return out


def _choose(
    folder: Path,
    labels: PartialLabels,
    inputs: Inputs,
    settings: CompletionSettings,
    runtime: Runtime,
) -> tuple[float | None, Calibration]:
    """The best pull on what was held back, None for leaving all as it is, and its calibration."""
    part = hold_back(labels, settings.held_back, settings.seed)
    model, _, _ = load_model(folder)
    tried: list[LastLayer | None] = [None, *refit_model(model, part.left, inputs, PULLS, runtime)]
    best, most = None, -np.inf
    for pull, layer in zip((None, *PULLS), tried, strict=True):
        if layer is not None:
            layer.put(model)
        logits, present, classes = held_back_logits(model, labels, part.held, inputs, runtime)
        precision = mean_precision(logits, present, classes)
        if precision > most:
            calibration = fit_calibration(logits, present, classes, labels.num_classes, part.weight)
            best, most = (pull, calibration), precision
    assert best is not None
    return best


def mean_precision(scores: np.ndarray, present: np.ndarray, classes: np.ndarray) -> float:
    """The mean over classes of average precision; classes of one kind say nothing.

    Args:
        scores: float [n].
        present: bool [n].
        classes: int [n].
    """
    found = [0.0]
    order = np.lexsort((-scores, classes))
    for ranked in np.split(present[order], np.flatnonzero(np.diff(classes[order])) + 1):
        if ranked.any() and not ranked.all():
            hits = np.cumsum(ranked)[ranked]
            found.append(float(np.mean(hits / (np.flatnonzero(ranked) + 1))))
    return sum(found) / max(1, len(found) - 1)


class LastLayer:
    """Weights float64 [C, h] and biases [C] of a method's last layer."""

    def __init__(self, weights: np.ndarray, biases: np.ndarray) -> None:
        self.weights, self.biases = weights, biases

    def put(self, model: Model) -> None:
        """Put them into a model."""
        like, _ = model.method.last_layer()
        model.method.set_last_layer(
            torch.from_numpy(self.weights).to(like), torch.from_numpy(self.biases).to(like)
        )


def refit_model(
    model: Model,
    labels: PartialLabels,
    inputs: Inputs,
    pulls: tuple[float, ...],
    runtime: Runtime,
) -> list[LastLayer]:
    """The refitted last layer for each strength of pull; the model stays as it is."""
    model.to(resolve_device(runtime.device)).eval()
    old_weights, old_biases = (t.detach().double().cpu().numpy() for t in model.method.last_layer())
    found = [LastLayer(old_weights.copy(), old_biases.copy()) for _ in pulls]
    matrix = csc_array(labels.known)
    some = [c for c in range(labels.num_classes) if _both(matrix, c)]
    title = f"Refitting the classes of {labels.name}"
    with progress(title, len(some), unit="class", quiet=runtime.quiet) as bar:
        for group in _groups(some, matrix, old_weights.shape[1]):
            for c, hidden, present in _hidden(model, matrix, group, inputs):
                scale = float(np.sqrt((hidden**2).sum(1).mean())) or 1.0
                start = old_weights[c] * scale, old_biases[c]
                for layer, pull in zip(found, pulls, strict=True):
                    w, b = refit_class(hidden / scale, present, *start, pull)
                    layer.weights[c], layer.biases[c] = w / scale, b
                bar.update()
    return found


def refit_class(
    hidden: np.ndarray, present: np.ndarray, weights: np.ndarray, bias: float, pull: float
) -> tuple[np.ndarray, float]:
    """The minimum of ``mean CE(w . hidden + b) + pull / 2 * (|w - w0|^2 + (b - b0)^2)``.

    Args:
        hidden: float64 [n, h].
        present: bool [n].
        weights, bias: ``w0`` [h] and ``b0``, the trained ones.
    """
    # The minimum lies in the span of the hidden features: with few images that is small.
    x = np.concatenate([hidden, np.ones((len(hidden), 1))], axis=1)
    basis = np.linalg.qr(x.T)[0] if len(x) < x.shape[1] else np.eye(x.shape[1])
    inner = x @ basis
    base = hidden @ weights + bias
    sign = np.where(present, 1.0, -1.0)

    def cost(v: np.ndarray) -> tuple[float, np.ndarray]:
        z = base + inner @ v
        value = -log_expit(sign * z).mean() + pull / 2 * float(v @ v)
        return value, inner.T @ (expit(z) - present) / len(z) + pull * v

    result = minimize(
        cost, np.zeros(basis.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": _ROUNDS}
    )
    moved = basis @ result.x
    return weights + moved[:-1], float(bias + moved[-1])


def _both(matrix: csc_array, c: int) -> bool:
    values = matrix.data[matrix.indptr[c] : matrix.indptr[c + 1]]
    return bool((values == PRESENT).any() and (values != PRESENT).any())


def _groups(classes: list[int], matrix: csc_array, width: int) -> Iterator[list[int]]:
    """Classes whose hidden features fit into memory together."""
    group: list[int] = []
    cells = 0
    for c in classes:
        size = int(matrix.indptr[c + 1] - matrix.indptr[c]) * width
        if group and cells + size > _MOST_CELLS:
            yield group
            group, cells = [], 0
        group.append(c)
        cells += size
    if group:
        yield group


def _hidden(
    model: Model, matrix: csc_array, group: list[int], inputs: Inputs
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(class, hidden features float64 [n, h], present bool [n]) of the readable known images."""
    images = [matrix.indices[matrix.indptr[c] : matrix.indptr[c + 1]] for c in group]
    wanted = np.unique(np.concatenate(images))
    wanted = wanted[inputs.readable[wanted]]
    parts: list[list[Tensor]] = [[] for _ in group]
    rows: list[list[np.ndarray]] = [[] for _ in group]
    for first in range(0, len(wanted), _BATCH):
        some = wanted[first : first + _BATCH]
        with torch.inference_mode():
            hidden = model.method.hidden(model.maps(inputs.batch(some))).cpu()
        for k, c in enumerate(group):
            mine = np.flatnonzero(np.isin(some, images[k]))
            values = hidden[mine] if hidden.ndim == 2 else hidden[mine, c]
            parts[k].append(values)
            rows[k].append(some[mine])
    for k, c in enumerate(group):
        if parts[k]:
            column = matrix.data[matrix.indptr[c] : matrix.indptr[c + 1]]
            order = np.argsort(images[k])
            seen = np.concatenate(rows[k])
            present = column[order][np.searchsorted(images[k][order], seen)] == PRESENT
            yield c, torch.cat(parts[k]).double().numpy(), present
