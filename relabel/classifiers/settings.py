"""Settings of `relabel train-classifier`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from relabel.errors import ConfigError
from relabel.settings import setting, settings_dict
from relabel.training.settings import TrainSettings

LOSSES = ("bce", "softmax", "smoothing")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")

# `resnet` and `vit` are end-to-end trainings. resnet: the multi-label paper's (arXiv 2603.05729).
# vit: DeiT-III for ImageNet-1k (Touvron et al., 2022) in its parts that matter: BCE, 3-augment,
# colour jitter, mixup and CutMix, stochastic depth. Its LAMB is AdamW here, at DeiT's learning
# rate (5e-4 per 512 images), and images are not repeated within a batch.
PRESETS: dict[str, dict[str, Any]] = {
    "finetune": {},
    "resnet": {
        "weights": "random",
        "epochs": 100.0,
        "batch_size": 1024,
        "lr": 1e-3,
        "weight_decay": 1e-4,
        "grad_clip": 0.0,
    },
    "vit": {
        "weights": "random",
        "epochs": 400.0,
        "batch_size": 1024,
        "lr": 1e-3,
        "weight_decay": 0.05,
        "warmup": 0.0125,
        "grad_clip": 1.0,
        "augment": "3-augment",
        "color_jitter": 0.3,
        "mixup": 0.8,
        "cutmix": 1.0,
        "drop_path": 0.05,
        "test_crop": 1.0,
    },
    "light": {
        "epochs": 4.0,
        "batch_size": 32,
        "lr": 2e-3,
        "backbone_lr_scale": 0.05,
        "crop_scale": (0.35, 1.0),
    },
}


@dataclass(frozen=True)
class ClassifierSettings(TrainSettings):
    """An image classifier and how it is trained; the same recipe whatever the loss."""

    preset: str = setting(
        "finetune",
        "Group of settings: finetune starts from pretrained weights (20 epochs); resnet and vit "
        "train end to end from random weights; light is fine-tuning on a few cores.",
        choices=tuple(PRESETS),
    )
    model: str = setting(
        "resnet50", "Network: a transformers hub id, a local folder or a torchvision model name."
    )
    weights: str = setting(
        "pretrained",
        "Start from the network's published weights, or from random ones.",
        choices=("pretrained", "random"),
    )
    keep_head: bool = setting(
        False,
        "Start from the pretrained classification layer too, where its classes are the images' "
        "(a background class is dropped); else the layer is new.",
    )
    batch_norm: str = setting(
        "auto",
        "Statistics of batch norms in training: each batch's own, or frozen as pretrained; auto "
        "freezes pretrained ones, which neither small batches nor weights that were folded or "
        "quantised can renew.",
        choices=("auto", "train", "frozen"),
    )
    loss: str = setting(
        "bce",
        "bce: binary cross-entropy on the soft multi-labels; softmax: cross-entropy on the "
        "image's original label; smoothing: the same with label smoothing.",
        choices=LOSSES,
    )
    smoothing: float = setting(0.1, "Label smoothing of the loss of that name.")

    epochs: float = setting(20.0, "Passes over the training images.")
    batch_size: int = setting(256, "Images per step over all processes.")
    lr: float = setting(1e-4, "Peak learning rate.")
    backbone_lr_scale: float = setting(
        1.0, "Learning rate of all but the classification layer, relative to lr."
    )
    weight_decay: float = setting(0.01, "Weight decay, not applied to norms and biases.")

    image_size: int = setting(0, "Side of the square the network sees; 0: its own, else 224.")
    test_crop: float = setting(
        0.875, "Testing: share of the resized short side that the centre crop takes."
    )
    interpolation: str = setting("bicubic", "Resampling of images.", choices=INTERPOLATIONS)
    crop_scale: tuple[float, ...] = setting(
        (0.08, 1.0), "Training: range of the random crop's area, relative to the image's."
    )
    flip: float = setting(0.5, "Probability of a horizontal flip.")
    color_jitter: float = setting(
        0.0, "Largest relative change of brightness, contrast and saturation."
    )
    augment: str = setting(
        "none",
        "3-augment makes every image grey, solarised or blurred, as DeiT-III does.",
        choices=("none", "3-augment"),
    )
    mixup: float = setting(0.0, "Alpha of mixup's beta distribution; 0 switches it off.")
    cutmix: float = setting(
        0.0, "Alpha of CutMix's; 0 switches it off. With both on, each batch takes one of them."
    )
    drop_path: float = setting(
        0.0, "Stochastic depth of the deepest block, where the network has it; 0: its own."
    )

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}", remedy="Use 1 or more.")
        if self.image_size < 0:
            raise ConfigError(f"image_size is {self.image_size}", remedy="Use 0 or more.")
        if not 0 < self.test_crop <= 1:
            raise ConfigError(f"test_crop is {self.test_crop}", remedy="Use above 0, up to 1.")
        low, high = (min(self.crop_scale), max(self.crop_scale)) if self.crop_scale else (0, 0)
        if len(self.crop_scale) != 2 or not 0 < low <= high <= 1:
            raise ConfigError(
                f"crop_scale is {','.join(map(str, self.crop_scale))}",
                remedy="Give two numbers above 0, up to 1.",
            )
        for name in ("smoothing", "flip", "color_jitter", "drop_path"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", remedy="Use 0 to 1.")
        for name in ("mixup", "cutmix", "epochs", "steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", remedy="Use 0 or more.")

    def result_dict(self) -> dict[str, Any]:
        """What the trained weights depend on, JSON-ready."""
        unused = ("preset", "checkpoint_every", "eval_every")
        if self.loss != "smoothing":
            unused = (*unused, "smoothing")
        return {k: v for k, v in settings_dict(self).items() if k not in unused}


def process_rank() -> tuple[int, int]:
    """(rank, number of processes) as ``torchrun`` and ``accelerate launch`` announce them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
