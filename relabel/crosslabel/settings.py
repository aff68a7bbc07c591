"""Settings of cross-labelling. Imports neither torch nor pyarrow: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from relabel.settings import Positive, Settings, Share, setting, settings_dict


@dataclass(frozen=True)
class CrossLabelSettings(Settings):
    """How specialists label other datasets."""

    min_score: Share = setting(
        0.05,
        "Confidence filter: detections whose best class scores less are left out. Low, because "
        "LAT weighs pseudo-labels by their confidence.",
    )
    nms_iou: Share = setting(
        0.5, "Class-wise NMS: IoU above which the lower of two boxes of one class is left out."
    )
    ranking: Literal["score", "score-quality"] = setting(
        "score",
        "What NMS ranks by; score-quality multiplies by the localisation quality of detectors "
        "that have one.",
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
        """The settings that pseudo-labels depend on: not how they are batched and sharded."""
        values = settings_dict(self)
        return {k: v for k, v in values.items() if k not in ("batch_size", "shard_images")}

    def images_per_batch(self, device_type: str) -> int:
        """The batch size on a torch device type such as ``cpu`` or ``cuda``."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        return 8 if device_type == "cpu" else 32
