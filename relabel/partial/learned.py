"""The co-occurrence of classes that a network learned, for comparison with the counted one.

Shape legend: ``B`` images, ``C`` classes, ``R`` known present classes of the images of a batch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from relabel.datasets.partial.labels import PartialLabels
from relabel.partial.features import Inputs, passes
from relabel.partial.methods.semantic import Hst
from relabel.partial.model import load_model
from relabel.settings import Runtime
from relabel.training.loop import resolve_device

_BATCH = 64


def learned_cooccurrence(
    folder: Path, inputs: Inputs, labels: PartialLabels, runtime: Runtime
) -> np.ndarray | None:
    """How sure HST's transfer within an image is of each class, given another.

    The mean of ``P_ij`` over the readable images in which class i is known present (HST, arXiv
    2205.11131, section on intra-image semantic transfer).

    Args:
        folder: a training's, see `relabel.partial.train.train`.
        inputs: of the images of ``labels``, in their order.

    Returns:
        float64 [C, C], row the given class, 1 on the diagonal; NaN in rows of classes that are
        known present nowhere. None for a method without such a transfer.
    """
    model, _, _ = load_model(folder)
    method = model.method
    if not isinstance(method, Hst) or method.ist is None:
        return None
    device = resolve_device(runtime.device)
    model.to(device)
    classes = labels.num_classes
    total = torch.zeros(classes, classes, dtype=torch.float64, device=device)
    number = torch.zeros(classes, dtype=torch.float64, device=device)
    for rows in passes(len(inputs), _BATCH):
        block = labels.dense(rows)
        block[~inputs.readable[rows]] = 0
        known = torch.from_numpy(block).to(device)
        with torch.inference_mode():
            features = method.net.features(model.maps(inputs.batch(rows)))
            pairs = method.ist(features, known)
            total.index_add_(0, pairs.given, torch.sigmoid(pairs.logits).double())
            number += torch.bincount(pairs.given, minlength=classes)
    found = (total / number[:, None]).cpu().numpy()
    seen = number.cpu().numpy() > 0
    found[~seen] = np.nan
    np.fill_diagonal(found, np.where(seen, 1.0, np.nan))
    return found
