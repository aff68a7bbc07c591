"""Image classifiers of transformers and torchvision as they are published."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from relabel.errors import ConfigError, RelabelError
from relabel.files.opening import said_of
from relabel.files.tensors import check_model_folder

DEFAULT_SIDE = 224
RESAMPLE = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
"""Pillow's numbers of resampling filters, which image processors are configured with."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Load in silence: layers that are left out or start anew are expected here, and no news."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


@contextmanager
def loading(what: str, name: str, remedy: str, *, shown: str | None = None) -> Iterator[None]:
    """Load in silence; whatever a published model's files make transformers raise is one error.

    Args:
        what, remedy: for the error.
        name: hub id or local folder, whose files must be regular ones.
        shown: the name in the error; default ``name``.

    Raises:
        ConfigError: it is not there, damaged, or code of its own would have to run.
        DataError: a file of a local folder is no regular file.
    """
    check_model_folder(name)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's of a layer without channels, for one
            yield
    except RelabelError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"{what} {shown or name!r} cannot be loaded: it wants to run code of its own, "
                "which relabel never does",
                remedy="Give a checkpoint whose network is part of transformers.",
            ) from error
        raise ConfigError(
            f"{what} {shown or name!r} cannot be loaded: {said_of(error)}", remedy=remedy
        ) from error


def image_processor(name: str) -> Any:
    """A published model's image processor, None where it has none.

    Raises:
        ConfigError: the one of a local folder is damaged.
    """
    from transformers import AutoImageProcessor

    file = Path(name) / "preprocessor_config.json"
    if Path(name).is_dir():
        if not file.is_file():
            return None
        remedy = f"Correct {file.name} in its folder, or remove the file."
        with loading("image processor of", name, remedy):
            return AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    try:
        with quiet_transformers():
            return AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"image processor of {name!r} cannot be loaded: it wants to run code of its own, "
                "which relabel never does",
                remedy="Give a checkpoint whose network is part of transformers.",
            ) from error
        return None


def pixel_statistics(values: Any, name: str) -> tuple[float, ...]:
    """Mean or deviation of a published model's pixels: three finite numbers.

    Raises:
        ConfigError: it is something else.
    """
    numbers = values if isinstance(values, list | tuple) else [values] * 3
    fit = [isinstance(v, int | float) and math.isfinite(v) for v in numbers]
    if len(fit) != 3 or not all(fit):
        raise ConfigError(
            f"model {name!r} has {values!r} for the mean or deviation of pixels",
            remedy="Correct image_mean and image_std in its preprocessor_config.json.",
        )
    return tuple(float(v) for v in numbers)


def transformers_classifier(
    name: str, pretrained: bool, image_size: int, drop_path: float
) -> tuple[Any, list[str]]:
    """The network as published, and the labels of its logits; none if some weights are new."""
    from transformers import AutoConfig, AutoModelForImageClassification

    remedy = "Give a local folder or hub id of an image classifier, or a torchvision model."
    with loading("classifier", name, remedy):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if drop_path > 0 and hasattr(config, "drop_path_rate"):
            config.drop_path_rate = drop_path
        if not config.num_labels:
            config.num_labels = 2
        if pretrained:
            net, info = AutoModelForImageClassification.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
            fresh = bool(info["missing_keys"])
        else:
            if image_size and isinstance(getattr(config, "image_size", None), int):
                config.image_size = image_size
            net = AutoModelForImageClassification.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
            fresh = True
        labels = [str(net.config.id2label[i]) for i in sorted(net.config.id2label)]
        return net, [] if fresh else labels
    raise AssertionError  # unreachable: the block above returns or raises


def torchvision_classifier(
    name: str, pretrained: bool, image_size: int, drop_path: float
) -> tuple[Any, list[str]]:
    import torchvision

    more = {}
    if name.startswith("vit_") and image_size and not pretrained:
        more["image_size"] = image_size
    weights: Any = torchvision.models.get_model_weights(name)
    weights = weights.DEFAULT if pretrained else None
    remedy = "Give --model a local transformers folder, or use --weights random."
    net = torchvision_model(name, weights, remedy, **more)
    depths = [m for m in net.modules() if isinstance(m, torchvision.ops.StochasticDepth)]
    deepest = max((m.p for m in depths), default=0.0)
    for module in depths if drop_path > 0 and deepest > 0 else ():
        module.p *= drop_path / deepest
    labels = [] if weights is None else [str(c) for c in weights.meta.get("categories", ())]
    return net, labels


def torchvision_model(name: str, weights: Any, remedy: str, **more: Any) -> Any:
    """torchvision's network of this name; a ConfigError if its weights cannot be downloaded."""
    import torchvision

    try:
        return torchvision.models.get_model(name, weights=weights, **more)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"weights of torchvision's {name} cannot be downloaded: {str(error).splitlines()[0]}",
            remedy=remedy,
        ) from error


class View(NamedTuple):
    """How a published network was tested: side, centre crop's share, resampling."""

    side: int = DEFAULT_SIDE
    crop: float = 0.875
    interpolation: str = "bicubic"


def published_view(name: str, kind: str, net: Any) -> View:
    """How the network of a ``transformers`` or ``torchvision`` name was tested."""
    if kind == "torchvision":
        import torchvision

        weights: Any = torchvision.models.get_model_weights(name)
        view = weights.DEFAULT.transforms()
        side, short = view.crop_size[0], view.resize_size[0]
        return View(side, side / max(side, short), view.interpolation.value)
    side = side_of(getattr(net.config, "image_size", None)) or DEFAULT_SIDE
    processor = image_processor(name)
    if processor is None:
        return View(side)
    row = processor.to_dict()
    size = row.get("size") or {}
    crop = (row.get("crop_size") or {}).get("height") if row.get("do_center_crop") else None
    short = size.get("shortest_edge") or size.get("height")
    side = int(crop or short or side)
    names = {number: word for word, number in RESAMPLE.items()}
    interpolation = names.get(int(row.get("resample") or 3), "bicubic")
    return View(side, side / max(side, int(short or side)), interpolation)


def side_of(size: Any) -> int:
    """The side of a config's image size, given as a number or as (height, width)."""
    if isinstance(size, list | tuple):
        size = size[0]
    return int(size or 0)
