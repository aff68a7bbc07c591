"""Settings of specialists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from relabel.backbones import WHOLE_BODY
from relabel.errors import ConfigError
from relabel.settings import (
    AboveZero,
    Count,
    NonNegative,
    Positive,
    Ranking,
    Share,
    Text,
    setting,
    settings_dict,
    with_preset,
)
from relabel.training.settings import TrainSettings

# How scores of intervals become a localisation quality: `relabel.detectors.certainty.intervals`.
Quality = Literal["max", "adjacent", "alone"]


@dataclass(frozen=True)
class SpecialistSettings(TrainSettings):
    """A Faster R-CNN with FPN, also one that locates by classification, or an RT-DETRv2, on any
    backbone, and how it is trained."""

    section: ClassVar[str] = "specialist"
    preset: Literal["light", "standard"] = setting(
        "light",
        "Group of settings: light trains on a few cores in minutes, standard has the sizes that "
        "were published for the detector and wants a GPU.",
    )
    detector: Literal["faster-rcnn", "rt-detr", "certainty"] = setting(
        "faster-rcnn",
        "Detector family; certainty is a Faster R-CNN that classifies where each side of a box "
        "lies and says how sure it is.",
    )
    epochs: NonNegative = setting(10.0, "Passes over the training images.")
    lr: NonNegative = setting(
        1e-3, "Peak learning rate; an RT-DETR starts from 5e-4 (light) or 1e-4."
    )
    backbone_lr_scale: NonNegative = setting(0.2, "Learning rate of the backbone, relative to lr.")

    backbone: Text = setting(
        "resnet50",
        "Backbone: a torchvision model name, a transformers hub id or a local folder.",
    )
    pretrained: bool = setting(True, "Start a torchvision backbone from its published weights.")
    frozen_stride: Count = setting(
        4,
        "Layers whose output stride is at most this keep their pretrained weights; 0: none. 32 "
        "freezes all: a Faster R-CNN then computes the maps of every image and its mirror image "
        "once and trains on those (pyramid, RPN and heads alone), without scale and color jitter.",
    )
    image_size: Positive = setting(480, "Short side in pixels that images are resized to.")
    max_image_size: Positive = setting(960, "Longest side in pixels after resizing.")
    fpn_strides: tuple[Positive, ...] = setting((4, 8, 16, 32), "Strides of the feature pyramid.")
    fpn_channels: Positive = setting(64, "Channels of the feature pyramid (256 in the reference).")
    head_channels: Positive = setting(512, "Width of the box head (1024 in the reference).")
    rpn_proposals: Positive = setting(500, "Proposals per image after the RPN's NMS.")
    rois_per_image: Positive = setting(
        64, "RoIs sampled per training image (512 in the reference)."
    )
    anchor_scale: AboveZero = setting(
        4.0, "Anchor size relative to its stride (8 in the reference)."
    )
    flip: Share = setting(0.5, "Probability of a horizontal flip.")
    scale_jitter: Annotated[tuple[AboveZero, ...], Meta(min_length=2, max_length=2)] = setting(
        (0.8, 1.25), "Range of the random resize; two equal numbers switch it off."
    )
    color_jitter: Share = setting(
        0.3, "Maximum relative change of brightness, contrast and saturation."
    )

    rtdetr_model: str = setting(
        "",
        "Whole pretrained RT-DETRv2, a hub id such as PekingU/rtdetr_v2_r18vd or a local folder; "
        "its class heads start anew. Empty builds one on the backbone.",
    )
    rtdetr_queries: Positive = setting(
        100, "Object queries, the maximum of boxes per image (300 published)."
    )
    rtdetr_denoising: Count = setting(60, "Denoising queries in training (100 published); 0: none.")
    rtdetr_layers: Positive = setting(3, "Decoder layers of a built RT-DETR (6 published).")
    rtdetr_channels: Positive = setting(128, "Width of a built RT-DETR (256 published).")
    rtdetr_ffn: Positive = setting(512, "Feed-forward width of a built RT-DETR (1024 published).")
    rtdetr_heads: Positive = setting(8, "Attention heads of a built RT-DETR.")
    rtdetr_expansion: AboveZero = setting(
        0.5, "Inner width of the pyramid's blocks in a built RT-DETR, relative to its width."
    )

    certainty_intervals: Positive = setting(
        30, "Intervals that each side of a box is searched in (30 published; under 20 is worse)."
    )
    certainty_segment: Annotated[float, Meta(ge=1)] = setting(
        1.7, "Size of the box that the intervals reach to from the centre, relative to a proposal."
    )
    certainty_quality: Quality = setting(
        "alone",
        "Localisation quality, mean over the sides: score of the best interval (max, published), "
        "with its better neighbour's (adjacent), or that times their share of all scores (alone).",
    )
    certainty_ranking: Ranking = setting(
        "product",
        "What detections are ranked by: class probability p (score), localisation quality v, "
        "p * v (product), or its root (geometric).",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        channels, heads = self.rtdetr_channels, self.rtdetr_heads
        if self.detector == "rt-detr" and (channels % heads or channels % 4):
            raise ConfigError(
                f"rtdetr_channels is {channels} with {heads} heads",
                remedy="Use a width that 4 and rtdetr_heads divide.",
            )

    def result_dict(self) -> dict[str, Any]:
        """What the trained weights depend on: the settings of other families are left out."""
        values = settings_dict(self)
        others = {"faster-rcnn": ("rtdetr_", "certainty_"), "certainty": ("rtdetr_",)}
        prefixes = others.get(self.detector, ("certainty_",))
        unused = tuple(k for k in values if k.startswith(prefixes))
        if self.detector == "faster-rcnn":
            unused = (*unused, "detector")
        elif self.detector == "rt-detr":
            built = ("layers", "channels", "ffn", "heads", "expansion")
            from_hub = ("backbone", *(f"rtdetr_{k}" for k in built))
            unused += FASTER_RCNN_ONLY + (from_hub if self.rtdetr_model else ("rtdetr_model",))
        if self.decay == 1.0:  # so that what was made before the setting came stays valid
            unused = (*unused, "decay")
        return {k: v for k, v in values.items() if k not in unused}

    def resolved(self) -> SpecialistSettings:
        """The settings with the preset in place of defaults."""
        presets = RT_DETR_PRESETS if self.detector == "rt-detr" else PRESETS
        settings = with_preset(self, presets[self.preset])
        if settings.keeps_maps:
            settings = replace(settings, scale_jitter=(1.0, 1.0), color_jitter=0.0)
        return settings

    @property
    def keeps_maps(self) -> bool:
        """Whether the backbone's maps are computed once and kept, as it never learns."""
        return self.detector != "rt-detr" and self.frozen_stride >= WHOLE_BODY


@dataclass(frozen=True)
class DetectorSettings(SpecialistSettings):
    """The detector that a comparison trains once per arm."""

    section: ClassVar[str] = "detector"


FASTER_RCNN_ONLY = (
    "fpn_strides",
    "fpn_channels",
    "head_channels",
    "rpn_proposals",
    "rois_per_image",
    "anchor_scale",
)

# Lin et al. (2017) and torchvision's reference training; not run by us (no GPU at hand).
PRESETS: dict[str, dict[str, Any]] = {
    "light": {},
    "standard": {
        "image_size": 800,
        "max_image_size": 1333,
        "fpn_channels": 256,
        "head_channels": 1024,
        "rpn_proposals": 1000,
        "rois_per_image": 512,
        "anchor_scale": 8.0,
    },
}

# Lv et al. (2024, arXiv 2407.17140), its configuration for ResNet-50; the published images are
# squares of 640, ours keep their shape. Not run by us (no GPU at hand).
RT_DETR_PRESETS: dict[str, dict[str, Any]] = {
    "light": {"lr": 5e-4, "weight_decay": 1e-4},
    "standard": {
        "image_size": 640,
        "max_image_size": 1333,
        "lr": 1e-4,
        "backbone_lr_scale": 0.1,
        "weight_decay": 1e-4,
        "grad_clip": 0.1,
        "ema": 0.9999,
        "rtdetr_queries": 300,
        "rtdetr_denoising": 100,
        "rtdetr_layers": 6,
        "rtdetr_channels": 256,
        "rtdetr_ffn": 1024,
        "rtdetr_expansion": 1.0,
    },
}
