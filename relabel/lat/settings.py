"""Settings of Label-Aligned Transfer (Mind the Gap, arXiv 2506.04737; `CONTRIBUTING.md` §LAT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from relabel.errors import ConfigError, did_you_mean
from relabel.settings import (
    Count,
    NonNegative,
    Positive,
    Precision,
    Ranking,
    Settings,
    Share,
    Text,
    setting,
    settings_dict,
    with_preset,
)
from relabel.training.settings import TrainSettings

SHARD_IMAGES = 256  # of a transfer

PARTS: dict[str, str] = {
    "crossfit": "out-of-fold predictions stand for the target's own labels while training, which "
    "are proposals themselves without it",
    "simulated-source": "one other space's pseudo-labels play a source's annotations in every "
    "training image, as annotations do at transfer",
    "places": "objects that usually lie elsewhere on a class of annotations, such as a cyclist's "
    "rider, have a proposal there",
    "hiding": "pseudo-labels and region features are hidden at random while training, since a "
    "specialist finds less on another dataset's images than on its own",
    "own-scores": "a proposal reads its own class scores, not through attention alone",
    "consensus": "and the largest score per class of all proposals that overlap it by half",
    "geometry": "attention and fusion see how boxes lie to each other",
    "residual": "the fused features are added to the region's own",
    "multi-label": "one proposal may become objects of several classes (sigmoid, not softmax)",
    "quality": "score targets are the refined box's IoU, not one",
    "box-blending": "a label on an annotation takes its box, moved into the target's style, to "
    "the degree that it is more precise than the predicted one",
}
"""Parts of the default recipe that the printed formula does not have."""


@dataclass(frozen=True)
class LatTraining(TrainSettings):
    """The optimisation of LAT: AdamW, warm-up and cosine, as for specialists."""

    section: ClassVar[str] = "lat"


@dataclass(frozen=True)
class LatSettings(Settings):
    """Label-Aligned Transfer. Defaults were measured on held-back training data
    where `benchmarks/lat_ablation.md` names one; ``preset="paper"`` follows the printed formula:
    annotations as proposals, SFF without residual, softmax over the joint space plus background,
    and thresholds of a half. Jitter, deletion and heads are open there; ours stand in."""

    section: ClassVar[str] = "lat"
    preset: Literal["default", "paper"] = setting("default", "Group of settings to start from.")
    without: tuple[str, ...] = setting(
        (), f"Parts of the recipe to leave out, for ablations: {', '.join(PARTS)}."
    )

    epochs: NonNegative = setting(12.0, "Passes over the training images of all datasets.")
    steps: Count = setting(0, "Training steps; 0 derives them from the epochs.")
    batch_size: Positive = setting(8, "Images per step over all processes.")
    lr: NonNegative = setting(1e-3, "Peak learning rate.")
    weight_decay: NonNegative = setting(0.05, "Weight decay, not applied to norms and biases.")
    precision: Precision = setting(
        "auto",
        "Arithmetic of the forward pass; auto takes bf16 where the device has it, but fp32 for "
        "what is trained on a CPU.",
    )
    checkpoint_every: NonNegative = setting(
        60.0, "Seconds between checkpoints that resume starts from."
    )
    seed: Count = setting(0, "Seed of weights, order and what is hidden.")

    backbone: Text = setting(
        "specialist",
        "Frozen backbone: a hub id, local folder or torchvision name; `specialist` takes the "
        "one the target's specialist was trained with.",
    )
    image_size: Positive = setting(480, "Short side in pixels that images are resized to.")
    max_image_size: Positive = setting(1120, "Longest side in pixels after resizing.")
    feature_strides: tuple[Positive, ...] = setting((4, 8, 16, 32), "Strides to pool regions from.")
    feature_channels: Count = setting(64, "Channels per stride after PCA; 0 keeps all.")
    channels: Positive = setting(256, "Width d of region features.")
    fusion: Literal["class_aware", "plain", "none"] = setting(
        "class_aware", "Fusion: SFF (class_aware), plain attention, or none."
    )

    target_share: Share = setting(
        0.5, "Share of the target's images in each batch; 0 draws from all images alike."
    )
    max_images: Count = setting(5000, "Most training images per dataset; 0 takes all.")
    confidence: Ranking = setting(
        "score",
        "Confidence of a pseudo-label in the fusion, and in measuring box styles for their "
        "blending: class score p, localisation quality v, p * v (product) or its square root "
        "(geometric); p of detectors without v.",
    )
    min_score: Share = setting(0.05, "Pseudo-labels below this confidence are no proposals.")
    folds: Positive = setting(
        3,
        "Folds of the target: specialists without each predict on it in place of its annotations, "
        "and models without each measure there what scores mean; their mean transfers. 1: none, so "
        "that the target's images have proposals by other spaces alone.",
    )
    fold_stretches: Positive = setting(
        3,
        "Stretches of images, in file-name order, that a fold holds out: a single one may hold "
        "out all there is of a class or a weather.",
    )
    fold_gap: Count = setting(
        5, "Images on either side of a held-out stretch that the fold does not learn from either."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset == "paper" and self.without:
            raise ConfigError(
                "preset 'paper' has no parts that `without` could leave out",
                remedy="Leave one of the two out: --set lat.preset=default.",
            )
        for part in self.without:
            if part not in PARTS:
                raise ConfigError(
                    f"there is no part {part!r} of LAT", remedy=did_you_mean(part, PARTS)
                )

    def result_dict(self) -> dict[str, Any]:
        """The settings as stages know them, without a field that came later and is unused."""
        values = settings_dict(self)
        if self.confidence == "score":
            del values["confidence"]
        return values

    def has(self, part: str) -> bool:
        """Whether a part of `PARTS` is in use."""
        return self.preset != "paper" and part not in self.without

    @property
    def crossfit(self) -> bool:
        """Whether out-of-fold predictions of the target's specialist are made and used."""
        return self.folds > 1 and self.has("crossfit")

    @property
    def training(self) -> LatTraining:
        """How the network is trained."""
        return LatTraining.of(self)

    def precision_on(self, device_type: str) -> Precision:
        """Of training on a torch device type such as ``cpu`` or ``cuda``.

        Its products are small: on a CPU the casts cost more than bf16 saves.
        """
        return "fp32" if device_type == "cpu" and self.precision == "auto" else self.precision

    def resolved(self) -> LatSettings:
        """The settings with the preset in place of defaults."""
        return with_preset(self, PRESETS[self.preset])


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"backbone": "facebook/dinov2-base", "folds": 1, "target_share": 0.0},
}
