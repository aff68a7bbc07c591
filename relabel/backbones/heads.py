"""Classification layers: finding, matching and replacing the last layer of a network.

Shape legend: ``C`` classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from relabel.errors import ConfigError


def match_head(
    labels: Sequence[str], classes: Sequence[str], keys: Sequence[str]
) -> np.ndarray | None:
    """The logit of each class in a pretrained layer, int64 [C]; None where they do not match.

    Classes are found by their key or name: ``n01440764`` is the WordNet id of the label ``n01440764
    tench``. Layers whose labels say nothing match by their number: as many logits as classes, or
    one more that stands first, for the background.
    """
    plain = [str(label).strip().lower() for label in labels]
    place: dict[str, int] = {}
    for i, text in reversed(list(enumerate(plain))):
        first_name = text.partition(",")[0]
        for word in (text, first_name, key_of(text)):
            place[word] = i
    for names in (keys, classes):
        found = [place.get(str(n).strip().lower().partition(",")[0]) for n in names]
        rows = [i for i in found if i is not None]
        if len(rows) == len(classes) and len(set(rows)) == len(rows):
            return np.array(rows, dtype=np.int64)
    if len(labels) == len(classes):
        return np.arange(len(classes), dtype=np.int64)
    if len(labels) == len(classes) + 1 and _has_background(plain):
        return np.arange(1, len(classes) + 1, dtype=np.int64)
    return None


def _has_background(labels: Sequence[str]) -> bool:
    return bool(labels) and str(labels[0]).strip().lower() in ("background", "label_0", "0")


def find_head(net: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """(name, module) of the classification layer: the last linear one, or 1 x 1 convolution.

    Raises:
        ConfigError: the network ends in neither.
    """
    found: tuple[str, nn.Linear | nn.Conv2d] | None = None
    for name, module in net.named_modules():
        pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
        if isinstance(module, nn.Linear) or (pointwise and name.startswith("classifier")):
            found = name, module  # type: ignore[assignment]
    if found is None:
        raise ConfigError(
            f"{type(net).__name__} has no classification layer that could be replaced",
            remedy="Choose another --model.",
        )
    return found


def replace_head(
    net: nn.Module, classes: int, rows: np.ndarray | None, prior: float | None
) -> None:
    """Put a classification layer of ``classes`` logits in the place of the network's own.

    Args:
        rows: logits of the old layer that the new one takes over, in its order; None draws weights
            of standard deviation 0.02 from torch's global generator.
        prior: probability that a new layer's biases start with under a sigmoid; None: zeros.
    """
    name, old = find_head(net)
    if isinstance(old, nn.Linear):
        new: nn.Linear | nn.Conv2d = nn.Linear(old.in_features, classes)
    else:
        new = nn.Conv2d(old.in_channels, classes, 1)
    assert new.bias is not None
    with torch.no_grad():
        if rows is not None:
            new.weight.copy_(old.weight[torch.from_numpy(rows)])
            new.bias.zero_()
            if old.bias is not None:
                new.bias.copy_(old.bias[torch.from_numpy(rows)])
        else:
            nn.init.trunc_normal_(new.weight, std=0.02)
            new.bias.fill_(0.0 if prior is None else float(np.log(prior / (1 - prior))))
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, new)


def key_of(label: str) -> str:
    """The WordNet id that a label begins with, else the label."""
    first = label.partition(" ")[0]
    return first if re.fullmatch(r"n\d{8}", first) else label
