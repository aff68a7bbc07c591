"""Settings of `relabel imagenet-multilabel`, one dataclass per stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from relabel.settings import (
    Count,
    NonNegative,
    Positive,
    Precision,
    Settings,
    Share,
    Text,
    setting,
    with_preset,
)

PROBE = "probe"
"""The classifier that is a linear head on the backbone, trained on the images' own labels."""

# (words in the backbone's name, values). Published settings: CutLER for DINO ViT-B/8, the
# multi-label paper for DINOv3/16. tau depends on the backbone: see `relabel imagenet-multilabel
# --calibrate`.
MASKCUT_PRESETS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("dinov3",), {"image_size": 896, "tau": 0.75, "max_masks": 4}),
    (("dinov2",), {"image_size": 896, "tau": 0.5, "max_masks": 4}),
    (("dino",), {"image_size": 480, "tau": 0.15, "max_masks": 3}),
)


@dataclass(frozen=True)
class MaskCutSettings(Settings):
    """Regions: patch features, cuts, refinement."""

    backbone: Text = setting(
        "facebook/dinov3-vitl16-pretrain-lvd1689m",
        "Frozen network whose patch features are cut and pooled: a transformers hub id, a local "
        "folder or a torchvision model name.",
    )
    image_size: Positive = setting(448, "Side in pixels of the square that images are resized to.")
    tau: Annotated[float, Meta(ge=-1, lt=1)] = setting(
        0.5, "Patches whose cosine similarity exceeds this are neighbours."
    )
    max_masks: Positive = setting(4, "Maximum of masks per image, N of the paper.")
    kind: Literal["auto", "keys", "features"] = setting(
        "auto",
        "What is cut: the keys of an attention block, or features; auto takes keys of a ViT.",
    )
    layer: int = setting(-1, "Attention block of a ViT whose keys are cut, from the end if < 0.")
    stride: Positive = setting(
        16, "Stride of the feature map that is cut, for convolutional networks."
    )
    refine: Literal["none", "crf", "guided"] = setting(
        "crf",
        "How masks are brought to full resolution: not at all beyond upsampling, by a dense CRF, "
        "or by a guided filter.",
    )
    precision: Precision = setting(
        "auto",
        "Arithmetic of the forward pass; auto takes bf16 where the device has it.",
    )
    batch_size: Positive = setting(16, "Images per forward pass.")
    shard_images: Positive = setting(1000, "Images per shard, the unit of resuming.")

    def resolved(self) -> MaskCutSettings:
        """The settings with the backbone's preset in place of defaults."""
        # The folder a checkpoint lies in says nothing about what it is.
        name = self.backbone.rstrip("/").rpartition("/")[2].lower()
        for words, values in MASKCUT_PRESETS:
            if all(word in name for word in words):
                return with_preset(self, values)
        return self


@dataclass(frozen=True)
class LabelMapSettings(Settings):
    """Label maps: read from ReLabel's files, or made by a classifier's dense pass."""

    classifier: str = setting(
        "",
        "Classifier whose dense pass makes the maps where no files are given: a hub id, a local "
        "folder, a torchvision model name, or `probe`: a linear head on the backbone, trained on "
        "the images' own labels.",
    )
    image_size: Count = setting(
        0,
        "Side in pixels of the square the dense pass sees; 0: the one the classifier was trained "
        "at, since many lose their accuracy at another.",
    )
    grid: Positive = setting(15, "Cells per side of the maps.")
    top: Positive = setting(5, "Classes kept per cell.")
    transpose: bool = setting(False, "Swap the two axes of the maps that are read from files.")


@dataclass(frozen=True)
class FilterSettings(Settings):
    """Which regions the region classifier learns from."""

    rule: Literal["original", "top1"] = setting(
        "original",
        "original: regions whose score for the image's own label exceeds the threshold, with that "
        "label (the paper); top1: regions whose best class reaches it, with that class (the "
        "public code).",
    )
    threshold: Share = setting(0.75, "Minimum score of a region under the label maps.")


@dataclass(frozen=True)
class RegionClassifierSettings(Settings):
    """The region classifier: an MLP on pooled features."""

    hidden: Positive = setting(1024, "Width of the hidden layer.")
    dropout: Share = setting(0.1, "Dropout after the hidden layer.")
    lr: NonNegative = setting(1e-4, "Learning rate of AdamW.")
    weight_decay: NonNegative = setting(0.01, "Weight decay.")
    batch_size: Positive = setting(256, "Regions per step.")
    epochs: NonNegative = setting(20.0, "Passes over the selected regions.")
    steps: Count = setting(0, "Training steps; 0 derives them from the epochs.")
    min_steps: Count = setting(
        200, "Minimum of steps where the epochs decide: 20 passes over few regions are a handful."
    )
    validation: Annotated[float, Meta(ge=0, lt=1)] = setting(
        0.1, "Share of the images whose regions are held out to choose the epoch by."
    )
    seed: Count = setting(0, "Seed of weights, order and the held-out part.")


@dataclass(frozen=True)
class AggregateSettings(Settings):
    """How the labels of regions become labels of the image."""

    mode: Literal["soft", "hard"] = setting(
        "soft",
        "soft: the greatest probability over the regions, per class; hard: 1 where that reaches "
        "the threshold.",
    )
    threshold: Share = setting(0.5, "Minimum probability of a label, in the hard mode.")
    original: bool = setting(True, "Add the image's own label with probability 1.")
    min_score: Share = setting(0.001, "Probabilities below this are left out of the files.")
    max_labels: Positive = setting(
        20, "Maximum of labels per image in the files, the most probable ones."
    )
    confusion: Share = setting(
        0.2, "Two classes are called mutually confused from this rate on, both ways."
    )
