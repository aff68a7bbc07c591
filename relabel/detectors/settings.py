"""Settings of specialists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relabel.settings import setting, settings_dict, with_preset
from relabel.training.settings import TrainSettings


@dataclass(frozen=True)
class SpecialistSettings(TrainSettings):
    """A torchvision Faster R-CNN with FPN on any backbone, and how it is trained."""

    preset: str = setting(
        "light",
        "Group of settings: light trains on a few cores in minutes, standard has the sizes of "
        "the published Faster R-CNN and wants a GPU.",
        choices=("light", "standard"),
    )
    detector: str = setting("faster-rcnn", "Detector family.", choices=("faster-rcnn", "rt-detr"))
    epochs: float = setting(10.0, "Passes over the training images.")
    lr: float = setting(1e-3, "Peak learning rate.")
    backbone_lr_scale: float = setting(0.2, "Learning rate of the backbone, relative to lr.")

    backbone: str = setting(
        "resnet50",
        "Backbone: a torchvision model name, a transformers hub id or a local folder.",
    )
    pretrained: bool = setting(True, "Start a torchvision backbone from its published weights.")
    frozen_stride: int = setting(
        4, "Layers whose output stride is at most this keep their pretrained weights; 0: none."
    )
    image_size: int = setting(480, "Short side in pixels that images are resized to.")
    max_image_size: int = setting(960, "Longest side in pixels after resizing.")
    fpn_strides: tuple[int, ...] = setting((4, 8, 16, 32), "Strides of the feature pyramid.")
    fpn_channels: int = setting(64, "Channels of the feature pyramid (256 in the reference).")
    head_channels: int = setting(512, "Width of the box head (1024 in the reference).")
    rpn_proposals: int = setting(500, "Proposals per image after the RPN's NMS.")
    rois_per_image: int = setting(64, "RoIs sampled per training image (512 in the reference).")
    anchor_scale: float = setting(4.0, "Anchor size relative to its stride (8 in the reference).")
    flip: float = setting(0.5, "Probability of a horizontal flip.")
    scale_jitter: tuple[float, ...] = setting(
        (0.8, 1.25), "Range of the random resize; two equal numbers switch it off."
    )
    color_jitter: float = setting(
        0.3, "Largest relative change of brightness, contrast and saturation."
    )

    def result_dict(self) -> dict[str, Any]:
        """What the trained weights depend on: the settings of other families are left out."""
        values = settings_dict(self)
        if self.detector == "faster-rcnn":
            values = {k: v for k, v in values.items() if k not in RT_DETR_ONLY}
        return values

    def resolved(self) -> SpecialistSettings:
        """The settings with the preset in place of defaults."""
        return with_preset(self, PRESETS[self.preset])


# Left out of the fingerprint of a Faster R-CNN, whose family needs no name there.
RT_DETR_ONLY = ("detector",)

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
