"""Cross-labelling without a specialist: a text-prompted detector labels in any label space."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from relabel.crosslabel.label import cross_label
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detector
from relabel.detectors.sam3.settings import Sam3Settings, class_prompts
from relabel.settings import Runtime
from relabel.workspace.fingerprint import fingerprint, folder_fingerprint


def cross_label_sam3(
    space: LabelSpace,
    dataset: DetectionDataset,
    out: Path,
    settings: CrossLabelSettings,
    runtime: Runtime,
    *,
    sam3: Sam3Settings | None = None,
    detector: Detector | None = None,
) -> None:
    """Label a dataset's images with SAM 3 and write Parquet shards to ``out``.

    Shards are those of `relabel.crosslabel.label.cross_label`, resumed in the same way; their
    pseudo-labels are in ``space`` and are called ``by="sam3"``.

    Args:
        space: what to look for; each class's prompt, or its name, is the text.
        detector: SAM 3 as loaded before; default it is loaded for ``sam3``.
        settings, runtime: see `cross_label`.

    Raises:
        DataError: the weights are not available, or see `cross_label`.
        ConfigError: the space has no classes, or a prompt is too long.
        RelabelError: see `cross_label`.
    """
    sam3 = sam3 or Sam3Settings()
    load = None
    if detector is None:
        from relabel.detectors.sam3.detector import Sam3Detector

        load = partial(Sam3Detector.load, space, sam3)
    identity = fingerprint({"settings": sam3_identity(sam3), "prompts": class_prompts(space)})
    cross_label(
        Path(sam3.model),
        dataset,
        out,
        settings,
        runtime,
        detector=detector,
        load=load,
        by="sam3",
        model=identity,
    )


def sam3_identity(sam3: Sam3Settings) -> dict[str, Any]:
    """The settings that SAM 3's boxes depend on; a local folder counts by what is in it."""
    folder = Path(sam3.model).expanduser()
    known = {}
    if folder.is_dir():
        known[sam3.model] = f"{folder.name}@{folder_fingerprint(folder)[:12]}"
    return sam3.result_dict(known)
