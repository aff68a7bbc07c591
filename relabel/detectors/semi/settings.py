"""Settings of semi-supervised training. Imports no torch: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from relabel.settings import Count, NonNegative, Positive, Ranking, Settings, Share, setting


@dataclass(frozen=True)
class SemiSettings(Settings):
    """How a teacher's labels on unlabelled images join the training."""

    burn_in: Share = setting(
        0.3, "Share of the steps on labelled images alone, before there is a teacher."
    )
    unlabeled_images: Positive = setting(
        4, "Unlabelled images per step, beside the batch of labelled ones."
    )
    teacher_ema: Annotated[float, Meta(ge=0, lt=1)] = setting(
        0.999, "Decay of the teacher's weights, the moving average of the student's."
    )
    threshold: Share = setting(
        0.7,
        "Minimum confidence of a pseudo-label; class-wise thresholds around it stay within 0.4 "
        "and 0.9, or within it and these where it is beyond them.",
    )
    confidence: Ranking = setting(
        "score",
        "What the threshold is for: class score p, localisation quality v, p * v (product) or its "
        "square root (geometric); p of detectors without v.",
    )
    threshold_gamma: NonNegative = setting(
        0.05,
        "Exponent of the class-wise thresholds, lower for classes that are rarely and hesitantly "
        "found; 0 has the same for all.",
    )
    weight_gamma: NonNegative = setting(
        0.6, "Exponent of the class-wise weights of objects in the loss; 0 has the same for all."
    )
    unsupervised_weight: NonNegative = setting(
        1.0, "Weight of the loss on pseudo-labels relative to that on labels."
    )
    boxes: bool = setting(True, "Whether the student also learns the boxes of pseudo-labels.")
    kept_views: Count = setting(
        0,
        "Strong views of every unlabelled image that are computed once, where the whole backbone "
        "is frozen and images are not mixed; 0 draws them anew each time, through the backbone.",
    )
    mix: Literal["none", "mixpl"] = setting(
        "none",
        "mixpl shows the student pairs of images on top of each other and four in one, and "
        "repeats labelled images of rare classes.",
    )
