"""Pretrained image classifiers by name, and their classes in the order of the images' classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from relabel.backbones.extractor import BackboneSpec, resolve_backbone
from relabel.backbones.quiet import quiet_transformers
from relabel.errors import ConfigError, RelabelError

BACKGROUND = "background"


def load_classifier(name: str) -> tuple[nn.Module, list[str], BackboneSpec]:
    """A trained classifier: (network, label of each logit, its input's statistics).

    Args:
        name: a transformers hub id or folder with a ...ForImageClassification checkpoint, or a
            torchvision model name.

    Raises:
        ConfigError: there is none, or it has no trained classification layer.
        RelabelError: torchvision's weights cannot be downloaded.
    """
    spec = resolve_backbone(name)
    known = _transformers_classifier if spec.kind == "transformers" else _torchvision_classifier
    return *known(name), spec


def match_classes(
    labels: Sequence[str], classes: int, class_keys: Sequence[str] | None, *, name: str
) -> list[int]:
    """The classifier's logit of each class of the images.

    Args:
        labels: the classifier's labels, by logit; may be made up (``LABEL_3``).
        classes: C.
        class_keys: keys of the images' classes; a label fits a key if it equals it or begins with
            it and a space or comma, case aside.
        name: of the classifier, for messages.

    Raises:
        ConfigError: neither the keys nor the number of classes fit.
    """
    if class_keys is not None:
        heads: dict[str, list[int]] = {}
        for i, label in enumerate(labels):
            text = label.strip().lower()
            first = text.replace(",", " ").split(" ")[0]
            for key in {text, text.split(",")[0], first}:
                heads.setdefault(key, []).append(i)
        found = [heads.get(key.strip().lower(), []) for key in class_keys]
        if all(len(rows) == 1 for rows in found):
            return [rows[0] for rows in found]
    kept = [i for i, label in enumerate(labels) if label.strip().lower() != BACKGROUND]
    if len(kept) == classes:
        return kept
    raise ConfigError(
        f"classifier {name!r} has {len(kept)} classes, the images have {classes}",
        remedy="Use a classifier trained on the images' classes, label maps (--maps), or the "
        "classifier `probe`, which learns them from the images' own labels.",
    )


def _transformers_classifier(name: str) -> tuple[nn.Module, list[str]]:
    from transformers import AutoModelForImageClassification

    try:
        with quiet_transformers():
            net, report = AutoModelForImageClassification.from_pretrained(
                name, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"classifier {name!r} cannot be loaded: {(str(error).splitlines() or [''])[0]}",
            remedy="Give a hub id or folder of an image classification checkpoint.",
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])[0]
        raise ConfigError(
            f"{name!r} has no trained classification layer ({missing} is missing)",
            file=Path(name) if Path(name).is_dir() else None,
            remedy="Use a ...ForImageClassification checkpoint, or the classifier `probe`.",
        )
    labels = net.config.id2label or {}
    return net, [str(labels.get(i, f"LABEL_{i}")) for i in range(net.config.num_labels)]


def _torchvision_classifier(name: str) -> tuple[nn.Module, list[str]]:
    import torchvision

    try:
        weights = torchvision.models.get_model_weights(name)["DEFAULT"]
        net = torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise RelabelError(
            f"weights of torchvision's {name} cannot be downloaded: {str(error).splitlines()[0]}",
            remedy="Give the folder of a transformers classifier instead.",
        ) from error
    return net, [str(c) for c in weights.meta["categories"]]
