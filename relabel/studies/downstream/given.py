"""The arm lgpl: the sources' boxes through the box head of the target's specialist, as stages."""

from __future__ import annotations

from functools import partial

from relabel.align.plan import AlignPlan
from relabel.crosslabel.given import label_given_boxes, read_given_labels
from relabel.datasets.dataset import DetectionDataset
from relabel.studies.downstream.labels import guided
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.workspace.stage import Stage


def guided_labels(
    plan: AlignPlan, settings: DownstreamSettings, *, overwrite: bool = False
) -> dict[str, DetectionDataset]:
    """Every source of a plan as the arm lgpl sees it; runs what is missing.

    Raises:
        ConfigError: the target's specialist has no box head.
    """
    stages = {source: _stage(plan, source) for source in plan.sources}
    plan.run(list(stages.values()), overwrite=overwrite, busy="wait")
    return {
        source: guided(
            plan.datasets[source],
            read_given_labels(stage.folder),
            settings.lgpl_threshold,
            settings.ignore_band,
        )
        for source, stage in stages.items()
    }


def _stage(plan: AlignPlan, source: str) -> Stage:
    """By the specialists that label the source together, beside what they label."""
    labels = plan.labels[plan.target, source]
    return plan.add(
        Stage(
            f"boxes of {source} by {plan.target}",
            labels.folder.with_name(labels.folder.name + "_given"),
            settings={},
            inputs={"data": plan.fingerprints[source]},
            needs=labels.needs,
            work=partial(_label, plan=plan, source=source),
            lock=plan.shared_lock,
        )
    )


def _label(stage: Stage, *, plan: AlignPlan, source: str) -> None:
    label_given_boxes(
        [need.folder for need in stage.needs],
        plan.datasets[source],
        stage.folder,
        plan.settings.crosslabel,
        plan.runtime,
    )
