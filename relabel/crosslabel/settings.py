"""Settings of cross-labelling. Imports neither torch nor pyarrow: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from relabel.settings import Positive, Ranking, Settings, Share, setting, settings_dict

# While no detector had a quality, the default was "score": the labels of that time are as good.
_AUTO, _SCORE = "score", "score alone"


@dataclass(frozen=True)
class CrossLabelSettings(Settings):
    """How specialists label other datasets."""

    min_score: Share = setting(
        0.05,
        "Confidence filter: detections below are left out, before NMS. Low, because LAT weighs "
        "pseudo-labels by their confidence.",
    )
    threshold: Literal["fixed", "classwise"] = setting(
        "fixed",
        "What of the labels is kept: all that pass min_score, or those above a threshold per "
        "class, lower for classes that the detector rarely finds or is unsure of.",
    )
    # Its range is that of the thresholds, `relabel.detectors.semi.thresholds.CLIP`.
    tau: Annotated[float, Meta(ge=0.4, le=0.9)] = setting(
        0.7, "Where thresholds are per class: that of a class as frequent and sure as the mean."
    )
    threshold_on: Ranking = setting(
        "score",
        "Confidence that min_score and thresholds per class look at: class score p, localisation "
        "quality v, p * v (product) or its square root (geometric); p where there is no v.",
    )
    nms_iou: Share = setting(
        0.5, "Class-wise NMS: IoU above which the lower of two boxes of one class is left out."
    )
    ranking: Literal["auto", Ranking] = setting(
        "auto",
        "What NMS and max_per_image rank by: p, v, p * v, or its square root, as threshold_on; "
        "auto takes what the detector says.",
    )
    ensemble: bool = setting(
        True,
        "Sources are labelled by the target's specialist and those of its cross-fitting together, "
        "their detections fused.",
    )
    max_per_image: Positive = setting(100, "Maximum of pseudo-labels kept per image, best first.")
    score_storage: Literal["float16", "float32"] = setting(
        "float16",
        "Precision in which score vectors are kept and compared.",
    )
    batch_size: Positive | Literal["auto"] = setting(
        "auto", "Images per batch, or auto: 8 on a CPU, 32 on an accelerator."
    )
    shard_images: Positive = setting(
        256, "Images per Parquet shard: what an interruption can cost."
    )

    def result_dict(self) -> dict[str, Any]:
        """The settings that pseudo-labels depend on: not how they are batched and sharded, and
        without those that came later where they change nothing."""
        unused = ["batch_size", "shard_images"]
        if self.threshold == "fixed":
            unused += ["threshold", "tau"]
        if self.threshold_on == "score":
            unused.append("threshold_on")
        values = {k: v for k, v in settings_dict(self).items() if k not in unused}
        values["ranking"] = {"auto": _AUTO, "score": _SCORE}.get(self.ranking, self.ranking)
        return values

    def images_per_batch(self, device_type: str) -> int:
        """The batch size on a torch device type such as ``cpu`` or ``cuda``."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        return 8 if device_type == "cpu" else 32
