"""Settings of Label-Aligned Transfer (Mind the Gap, arXiv 2506.04737; `CONTRIBUTING.md` §LAT)."""

from __future__ import annotations

from dataclasses import dataclass, fields
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
    with_preset,
)
from relabel.training.settings import TrainSettings

_CAME_LATER = ("clamp_at", "decay")


@dataclass(frozen=True)
class LatSettings(TrainSettings):
    """Label-Aligned Transfer. Defaults were measured on held-back training data
    where `benchmarks/lat_ablation.md` names one; ``preset="paper"`` follows the printed formula."""

    section: ClassVar[str] = "lat"
    preset: Literal["default", "paper"] = setting("default", "Group of settings to start from.")
    epochs: NonNegative = setting(8.0, "Passes over the training images of all datasets.")
    batch_size: Positive = setting(8, "Images per step over all processes.")
    lr: NonNegative = setting(1e-3, "Peak learning rate.")
    weight_decay: NonNegative = setting(0.05, "Weight decay, not applied to norms and biases.")

    backbone: Text = setting(
        "specialist",
        "Frozen backbone: a hub id, local folder or torchvision name; `specialist` takes the "
        "one the target's specialist was trained with.",
    )
    image_size: Positive = setting(480, "Short side in pixels that images are resized to.")
    max_image_size: Positive = setting(1120, "Longest side in pixels after resizing.")
    feature_strides: tuple[Positive, ...] = setting((4, 8, 16, 32), "Strides to pool regions from.")
    feature_channels: Count = setting(64, "Channels per stride after PCA; 0 keeps all.")
    pool_size: Positive = setting(7, "Cells per side of a pooled region.")

    target_share: Share = setting(
        0.5, "Share of the target's images in each batch; 0 draws from all images alike."
    )
    max_images: Count = setting(5000, "Most training images per dataset; 0 takes all.")
    min_score: Share = setting(0.05, "Pseudo-labels below this confidence are no proposals.")
    max_per_space: Count = setting(60, "Most pseudo-label proposals of one label space per image.")
    jitter: NonNegative = setting(
        0.05, "Largest shift of each side of a jittered box, relative to it."
    )
    jitter_variants: Count = setting(2, "Jittered copies of each annotated box to draw from.")
    drop_gt: Share = setting(0.3, "Probability of leaving an annotated box out of the proposals.")

    target_proposals: Literal["crossfit", "gt", "none"] = setting(
        "crossfit",
        "What stands for the target's own labels while training: out-of-fold predictions "
        "(crossfit), the annotations themselves (gt), or nothing (none).",
    )
    crossfit: Literal["target", "all", "none"] = setting(
        "target",
        "Datasets that get out-of-fold predictions of their own.",
    )
    crossfit_folds: Positive = setting(3, "Folds of the cross-fitting.")
    crossfit_stretches: Positive = setting(
        3,
        "Stretches of images, in file-name order, that a fold of the cross-fitting or of the "
        "calibration holds out: a single one may hold out all there is of a class or a weather.",
    )
    crossfit_gap: Count = setting(
        5, "Images on either side of a held-out stretch that the fold does not learn from either."
    )
    mask_self: bool = setting(False, "A proposal may not attend to its own scores.")
    score_dropout: Share = setting(0.0, "Probability of hiding a proposal's scores in training.")
    simulated_source: bool = setting(
        True,
        "Let one other space's pseudo-labels simulate a source's annotations in every training "
        "image, as the source's annotations do at transfer.",
    )
    simulated_source_confirmed: bool = setting(
        True,
        "Simulate with the pseudo-labels that overlap an annotation, however unsure, and those of "
        "confidence 0.7 or more, instead of all from 0.4: as reliable as annotations are.",
    )

    drop_pseudo_labels: Share = setting(
        0.8,
        "Largest share of an image's pseudo-labels hidden in training (drawn per image), since a "
        "specialist finds less on another dataset's images than on its own.",
    )
    drop_region_features: Share = setting(
        0.2, "Probability of hiding an image's region features in training, for the same reason."
    )

    channels: Positive = setting(256, "Width d of region features.")
    heads: Positive = setting(4, "Attention heads of the fusion.")
    fusion: Literal["class_aware", "plain", "none"] = setting(
        "class_aware",
        "Fusion: SFF (class_aware), plain attention, or none.",
    )
    own_scores: bool = setting(
        True,
        "A proposal also reads its own class scores directly, not through attention rows alone, "
        "which the clamp bounds. Without it and without fusion no class reaches the heads.",
    )
    consensus: bool = setting(
        True,
        "Beside its own scores a proposal reads the largest score per class of all proposals that "
        "overlap it by half: what every label space says of one place.",
    )
    association: bool = setting(
        True,
        "Class logits start from how often classes of other label spaces lie on the annotations "
        "of each class (pointwise mutual information), and learn from there.",
    )
    clamp: bool = setting(True, "Clamp each attention row of the score branch at 1/sqrt(N).")
    clamp_at: Share = setting(
        0.0, "Clamp at this attention instead; 0 takes the 1/sqrt(N) of N datasets."
    )
    renormalize: bool = setting(False, "Make clamped attention rows sum to one again.")
    residual: bool = setting(True, "Add the fused features to the region's own.")
    geometry: bool = setting(True, "Let attention and fusion see how boxes lie to each other.")
    dropout: Share = setting(0.2, "Dropout of region features and head.")

    multi_label: bool = setting(
        True, "One proposal may become objects of several classes (sigmoid), not one (softmax)."
    )
    class_boxes: bool = setting(True, "Regress a box per class rather than one per proposal.")
    quality_target: bool = setting(True, "Score targets are the refined box's IoU, not one.")

    calibration_folds: Positive = setting(
        3,
        "Models trained, each without one stretch of the target's images: their predictions there "
        "give the thresholds per class, their mean transfers. 1 trains one model on everything.",
    )
    score_threshold: Annotated[float, Meta(ge=-1, le=1)] = setting(
        -1.0, "One score threshold for all classes; -1 calibrates."
    )
    adapt_thresholds: bool = setting(
        True,
        "Lower all thresholds of a source together until as large a share of its annotations "
        "has a counterpart as of the simulated ones on the target's own images.",
    )
    nms_iou: Share = setting(0.6, "IoU of the final class-wise NMS.")
    cross_class_iou: Annotated[float, Meta(ge=-1, le=1)] = setting(
        -1.0,
        "Boxes of different classes that overlap more are one object; 1 keeps all, -1 learns it "
        "for every two classes from the target's annotations.",
    )
    blend_source_boxes: bool = setting(
        True,
        "A label on a source annotation takes its box, moved into the target's style, to the "
        "degree that it is more precise than the predicted box; see `relabel.lat.boxes`.",
    )
    ignore_band: Share = setting(
        0.5,
        "What reaches this share of its class's threshold, and source annotations without a "
        "counterpart, are ignore regions where a detector is trained, or objects (label_sets); 0 "
        "makes them background.",
    )

    label_sets: Share = setting(
        0.9,
        "Where a detector is trained, a label may be of all classes among which about this share "
        "of held-back objects of each class finds its own, and what is uncertain becomes a label "
        "if its evidence over all classes suffices; 0 takes the best class alone.",
    )
    min_precision: Share = setting(
        0.0,
        "Labels that are right less often than this, by their score and class on held-back images "
        "of the target, are ignore regions where a detector is trained, those of doubtful class "
        "(label_sets) included; 0 trains on all of them.",
    )

    def resolved(self) -> LatSettings:
        """The settings with the preset in place of defaults."""
        return with_preset(self, PRESETS[self.preset])

    def result_dict(self) -> dict[str, Any]:
        """The settings that results depend on, JSON-ready.

        Fields that came later are in it only where they are in use, so that what was made before
        them stays valid. ``blend_source_boxes``, ``ignore_band``, ``label_sets`` and
        ``min_precision`` are not in
        it: they act on what a transfer writes alone.
        """
        values = settings_dict(self)
        for name in ("blend_source_boxes", "ignore_band", "label_sets", "min_precision"):
            del values[name]
        later = {f.name: f.default for f in fields(self) if f.name in _CAME_LATER}
        return {k: v for k, v in values.items() if k not in later or v != later[k]}


# The printed formula: annotations as proposals, SFF without residual, softmax over the joint
# space plus background. Jitter, deletion and heads are open there; ours stand in.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "backbone": "facebook/dinov2-base",
        "calibration_folds": 1,
        "score_threshold": 0.5,
        "own_scores": False,
        "consensus": False,
        "association": False,
        "target_share": 0.0,
        "blend_source_boxes": False,
        "label_sets": 0.0,
        "cross_class_iou": 0.8,
        "target_proposals": "gt",
        "crossfit": "none",
        "simulated_source": False,
        "drop_pseudo_labels": 0.0,
        "drop_region_features": 0.0,
        "adapt_thresholds": False,
        "drop_gt": 0.3,
        "heads": 1,
        "residual": False,
        "geometry": False,
        "clamp": True,
        "renormalize": False,
        "multi_label": False,
        "class_boxes": True,
        "quality_target": False,
    },
}
