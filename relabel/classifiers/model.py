"""Image classifiers of transformers and torchvision behind one interface, saved and loaded.

Shape legend: ``B`` images, ``C`` classes, ``S`` side of the square that the network sees.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relabel.backbones.classifiers import load_classifier
from relabel.backbones.extractor import resolve_backbone
from relabel.backbones.heads import find_head, key_of, match_head, replace_head
from relabel.backbones.views import (
    DEFAULT_SIDE,
    RESAMPLE,
    published_view,
    quiet_transformers,
    side_of,
    torchvision_classifier,
    transformers_classifier,
)
from relabel.errors import DataError
from relabel.files.json_text import read_object
from relabel.files.opening import foreign, said_of
from relabel.files.tensors import read_tensors
from relabel.workspace.atomic import atomic_path, atomic_write_json

SPEC_FILE = "classifier.json"
WEIGHTS_FILE = "model.safetensors"
_RETRAIN = "Train the classifier again."


@dataclass(frozen=True)
class ClassifierSpec:
    """What a classifier's weights do not say.

    Attributes:
        kind: ``transformers`` or ``torchvision``.
        name: hub id, folder name or torchvision model name.
        classes: C class names.
        keys: C keys such as wnids, by which image folders are recognised.
        mean, std: of the input pixels in [0, 1], RGB.
        image_size: S.
        test_crop: share of the resized short side that the centre crop takes.
        interpolation: how images are resampled.
        activation: ``sigmoid`` or ``softmax``: logits to probabilities.
        first: number of leading logits that are no class (a background class).
    """

    kind: str
    name: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    test_crop: float = 0.875
    interpolation: str = "bicubic"
    activation: str = "softmax"
    first: int = 0


class Classifier(nn.Module):
    """Pixels to logits, whatever library the network comes from.

    Input: pixels in [0, 1], RGB, [B, 3, S, S]. Output: logits [B, C].

    With ``frozen_norm`` batch norms keep their statistics in training, too (in eval mode).
    """

    mean: Tensor
    std: Tensor
    frozen_norm = False

    def __init__(self, net: nn.Module, spec: ClassifierSpec) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        takes = "interpolate_pos_encoding" in inspect.signature(net.forward).parameters
        own = getattr(getattr(net, "config", None), "image_size", None)
        other_size = own is not None and side_of(own) != spec.image_size
        self._more = {"interpolate_pos_encoding": True} if takes and other_size else {}

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels - self.mean) / self.std
        if self.spec.kind == "transformers":
            logits = self.net(pixel_values=x, **self._more).logits
        else:
            logits = self.net(x)
            # GoogLeNet and Inception add auxiliary logits while they train.
            logits = logits[0] if isinstance(logits, tuple) else logits
        return logits[:, self.spec.first :]

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.frozen_norm:
            for module in self.net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def probabilities(self, logits: Tensor) -> Tensor:
        """[B, C] float32 probabilities of the logits."""
        logits = logits.float()
        return logits.sigmoid() if self.spec.activation == "sigmoid" else logits.softmax(dim=1)

    def backbone_parameters(self) -> set[int]:
        """``id`` of the parameters before the classification layer."""
        head = {id(p) for p in find_head(self.net)[1].parameters()}
        return {id(p) for p in self.net.parameters()} - head


def build_classifier(
    name: str,
    classes: Sequence[str],
    keys: Sequence[str],
    *,
    pretrained: bool = True,
    keep_head: bool = False,
    image_size: int = 0,
    test_crop: float = 0.875,
    interpolation: str = "bicubic",
    activation: str = "sigmoid",
    drop_path: float = 0.0,
    prior: float | None = None,
) -> tuple[Classifier, bool]:
    """A network with a classification layer for the given classes.

    A new layer has weights of standard deviation 0.02 from torch's global generator.

    Args:
        name: transformers hub id, local folder or torchvision model name.
        pretrained: load the published weights; False builds random ones.
        keep_head: keep the pretrained layer's rows of the classes, if `match_head` finds them.
        image_size: S; 0 takes the network's own, else 224.
        drop_path: stochastic depth of the deepest block, where the network has it; 0: its own.
        prior: probability that a new layer's biases start with under a sigmoid (Lin et al., 2017,
            section 4.1); None begins with zeros.

    Returns:
        The classifier on the CPU, and whether the pretrained layer was kept.

    Raises:
        ConfigError: the network is not available, or is no image classifier.
    """
    base = resolve_backbone(name)
    if base.kind == "transformers":
        net, labels = transformers_classifier(name, pretrained, image_size, drop_path)
        side = image_size or side_of(getattr(net.config, "image_size", None)) or DEFAULT_SIDE
    else:
        net, labels = torchvision_classifier(name, pretrained, image_size, drop_path)
        side = image_size or DEFAULT_SIDE
    rows = match_head(labels, classes, keys) if keep_head and pretrained else None
    replace_head(net, len(classes), rows, prior)
    if base.kind == "transformers":
        _name_classes(net, base.name, classes, activation)
    spec = ClassifierSpec(
        base.kind,
        base.name,
        tuple(classes),
        tuple(keys),
        base.mean,
        base.std,
        side,
        test_crop,
        interpolation,
        activation,
    )
    return Classifier(net, spec), rows is not None


def _name_classes(net: Any, name: str, classes: Sequence[str], activation: str) -> None:
    """Write the classes into a transformers config, whose pipelines then need nothing of ours."""
    net.config.id2label = dict(enumerate(classes))
    net.config.label2id = {label: i for i, label in enumerate(classes)}
    multi = activation == "sigmoid"
    net.config.problem_type = f"{'multi' if multi else 'single'}_label_classification"
    net.config._name_or_path = name
    net.num_labels = len(classes)


def save_classifier(model: Classifier, folder: Path) -> None:
    """Write ``config.json`` (transformers), ``model.safetensors`` and ``classifier.json``.

    The same weights give the same bytes. A transformers folder also gets a
    ``preprocessor_config.json``, so that ``pipeline("image-classification")`` can use it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = model.spec
    state = {k: v.detach().cpu().contiguous() for k, v in model.net.state_dict().items()}
    if spec.kind == "transformers":
        with quiet_transformers():
            model.net.save_pretrained(folder, state_dict=state)  # type: ignore[operator]
        atomic_write_json(folder / "preprocessor_config.json", _processor(spec), indent=1)
    else:
        from safetensors.torch import save_file

        with atomic_path(folder / WEIGHTS_FILE) as temp:
            save_file(state, temp, metadata={"format": "pt"})
    atomic_write_json(folder / SPEC_FILE, asdict(spec), indent=1)


def _processor(spec: ClassifierSpec) -> dict[str, Any]:
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": max(spec.image_size, round(spec.image_size / spec.test_crop))},
        "resample": RESAMPLE[spec.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": spec.image_size, "width": spec.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def load_for_prediction(source: str | Path, *, image_size: int = 0) -> Classifier:
    """A classifier that `save_classifier` wrote, or one as published, ready to predict.

    Args:
        source: a folder; or a transformers hub id or torchvision model name, whose own classes
            are kept, but for a leading background class.
        image_size: S of a published network; 0 takes its own.

    Raises:
        ConfigError: there is no such classifier, or it has no trained classification layer.
        DataError: a file of the folder is damaged.
    """
    folder = Path(source)
    if not (folder / SPEC_FILE).is_file():
        return _published(str(source), image_size)
    row = read_object(folder / SPEC_FILE, remedy=_RETRAIN)
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    with foreign(folder / SPEC_FILE, "a classifier's description", remedy=_RETRAIN):
        spec = ClassifierSpec(**fields)
    if spec.kind == "transformers":
        net, _ = transformers_classifier(str(folder), True, 0, 0.0)
    else:
        net = _saved_torchvision(folder, spec)
    return Classifier(net, spec).eval()


def _saved_torchvision(folder: Path, spec: ClassifierSpec) -> nn.Module:
    net, _ = torchvision_classifier(spec.name, False, spec.image_size, 0.0)
    replace_head(net, len(spec.classes), None, None)
    try:
        net.load_state_dict(read_tensors(folder / WEIGHTS_FILE))
    except Exception as error:
        text = error.message if isinstance(error, DataError) else said_of(error)
        raise DataError(
            f"the weights do not fit {spec.name}: {text}",
            file=folder / WEIGHTS_FILE,
            remedy=_RETRAIN,
        ) from error
    return net


def _published(name: str, image_size: int) -> Classifier:
    net, labels, base = load_classifier(name)
    own = published_view(name, base.kind, net)
    first = int(str(labels[0]).strip().lower() == "background")
    keys = tuple(key_of(label) for label in labels[first:])
    classes = tuple(
        label if key == label else label.removeprefix(key).strip()
        for key, label in zip(keys, labels[first:], strict=True)
    )
    config = getattr(net, "config", None)
    multi = getattr(config, "problem_type", None) == "multi_label_classification"
    spec = ClassifierSpec(
        base.kind,
        base.name,
        classes,
        keys,
        base.mean,
        base.std,
        image_size or own.side,
        test_crop=own.crop,
        interpolation=own.interpolation,
        activation="sigmoid" if multi else "softmax",
        first=first,
    )
    return Classifier(net, spec).eval()
