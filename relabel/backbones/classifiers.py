"""Pretrained image classifiers by name, and their classes in the order of the images' classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from relabel.backbones.extractor import BackboneSpec, resolve_backbone
from relabel.backbones.views import torchvision_classifier, transformers_classifier
from relabel.errors import ConfigError

BACKGROUND = "background"


def load_classifier(name: str) -> tuple[nn.Module, list[str], BackboneSpec]:
    """A trained classifier: (network, label of each logit, its input's statistics).

    Args:
        name: a transformers hub id or folder with a ...ForImageClassification checkpoint, or a
            torchvision model name.

    Raises:
        ConfigError: there is none, it has no trained classification layer, or torchvision's weights
            are not available.
    """
    spec = resolve_backbone(name)
    load = transformers_classifier if spec.kind == "transformers" else torchvision_classifier
    net, labels = load(name, True, 0, 0.0)
    if not labels:
        raise ConfigError(
            f"{name!r} has no trained classification layer",
            remedy="Use a ...ForImageClassification checkpoint; `relabel train-classifier` makes "
            "one, and `imagenet-multilabel` can do with `--classifier probe`.",
        )
    return net, labels, spec


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
