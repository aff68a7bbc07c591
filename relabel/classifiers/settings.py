"""Settings of `relabel train-classifier`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from relabel.settings import (
    Count,
    NonNegative,
    Positive,
    Share,
    Text,
    setting,
    settings_dict,
)
from relabel.training.settings import TrainSettings

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

    section: ClassVar[str] = "classifier"
    preset: Literal["finetune", "resnet", "vit", "light"] = setting(
        "finetune",
        "Group of settings: finetune starts from pretrained weights (20 epochs); resnet and vit "
        "train end to end from random weights; light is fine-tuning on a few cores.",
    )
    model: Text = setting(
        "resnet50", "Network: a transformers hub id, a local folder or a torchvision model name."
    )
    weights: Literal["pretrained", "random"] = setting(
        "pretrained",
        "Start from the network's published weights, or from random ones.",
    )
    keep_head: bool = setting(
        False,
        "Start from the pretrained classification layer too, where its classes are the images' "
        "(a background class is dropped); else the layer is new.",
    )
    batch_norm: Literal["auto", "train", "frozen"] = setting(
        "auto",
        "Statistics of batch norms in training: each batch's own, or frozen as pretrained; auto "
        "freezes pretrained ones, which neither small batches nor weights that were folded or "
        "quantised can renew.",
    )
    loss: Literal["bce", "softmax", "smoothing"] = setting(
        "bce",
        "bce: binary cross-entropy on the soft multi-labels; softmax: cross-entropy on the "
        "image's original label; smoothing: the same with label smoothing.",
    )
    smoothing: Share = setting(0.1, "Label smoothing of the loss of that name.")

    epochs: NonNegative = setting(20.0, "Passes over the training images.")
    batch_size: Positive = setting(256, "Images per step over all processes.")
    lr: NonNegative = setting(1e-4, "Peak learning rate.")
    backbone_lr_scale: NonNegative = setting(
        1.0, "Learning rate of all but the classification layer, relative to lr."
    )
    weight_decay: NonNegative = setting(0.01, "Weight decay, not applied to norms and biases.")

    image_size: Count = setting(0, "Side of the square the network sees; 0: its own, else 224.")
    test_crop: Annotated[float, Meta(gt=0, le=1)] = setting(
        0.875, "Testing: share of the resized short side that the centre crop takes."
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = setting(
        "bicubic", "Resampling of images."
    )
    crop_scale: Annotated[
        tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(min_length=2, max_length=2)
    ] = setting((0.08, 1.0), "Training: range of the random crop's area, relative to the image's.")
    flip: Share = setting(0.5, "Probability of a horizontal flip.")
    color_jitter: Share = setting(
        0.0, "Maximum relative change of brightness, contrast and saturation."
    )
    augment: Literal["none", "3-augment"] = setting(
        "none",
        "3-augment makes every image grey, solarised or blurred, as DeiT-III does.",
    )
    mixup: NonNegative = setting(0.0, "Alpha of mixup's beta distribution; 0 switches it off.")
    cutmix: NonNegative = setting(
        0.0, "Alpha of CutMix's; 0 switches it off. With both on, each batch takes one of them."
    )
    drop_path: Share = setting(
        0.0, "Stochastic depth of the deepest block, where the network has it; 0: its own."
    )

    def result_dict(self) -> dict[str, Any]:
        """What the trained weights depend on, JSON-ready."""
        unused = ("preset", "checkpoint_every", "eval_every")
        if self.loss != "smoothing":
            unused = (*unused, "smoothing")
        return {k: v for k, v in settings_dict(self).items() if k not in unused}
