"""`relabel complete`: train on what is known, complete the rest, write the result.

Stages: the model, in ``OUT/model``; with ``refit`` the refitted one, in ``OUT/refitted``; and the
result, which lies in ``OUT`` itself. Maps of a frozen backbone are kept beside them, or in a folder
that several runs share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relabel.datasets.partial.labels import PartialLabels
from relabel.files.json_text import read_object
from relabel.partial.settings import CompletionSettings
from relabel.settings import Runtime
from relabel.workspace.atomic import atomic_write_json, temporary_name
from relabel.workspace.fingerprint import source_identity
from relabel.workspace.pipeline import Pipeline
from relabel.workspace.progress import message
from relabel.workspace.stage import Outputs, Stage

if TYPE_CHECKING:
    from relabel.partial.result.parts import CompletedPart

METRICS, REPORT, FIFTYONE = "metrics.json", "report.html", "fiftyone"
_MODEL, _REFITTED, _FEATURES = "model", "refitted", "features"
_LOG = "complete.log"
_NETWORK = "network"


@dataclass(frozen=True, eq=False)
class Completion:
    """What is completed, and how.

    Attributes:
        labels: what is known.
        settings: of the training.
        refit: whether each category's classifier is refitted on its known labels.
        threshold: confidence from which an unknown label counts as present.
        truth: labels of the same images, of which those of ``labels`` are what was not hidden;
            None where nothing was hidden.
        test: labels of other images with the same categories, to measure on.
    """

    labels: PartialLabels
    settings: CompletionSettings
    refit: bool = False
    threshold: float = 0.5
    truth: PartialLabels | None = None
    test: PartialLabels | None = None


@dataclass(frozen=True)
class Measured:
    """Measures of completed labels.

    Attributes:
        numbers: by name, None without truth; they go into ``metrics.json``.
        rows: the same for the report: measure, of what, value.
        class_ap: AP over hidden labels by category.
    """

    numbers: Mapping[str, float | int | None] = field(default_factory=dict)
    rows: Sequence[tuple[str, str, float | None]] = ()
    class_ap: Mapping[str, float] = field(default_factory=dict)


Measure = Callable[[Completion, np.ndarray | None, np.ndarray | None], Measured]
"""Measures scores [N, C] of the images to complete and [T, C] of the test images; either is None
where there is no truth for it."""


class CompletionJob(Pipeline):
    """Where a completion stands, and its work.

    Args:
        completion: what is completed.
        out: the folder of the result.
        measure: see `Measure`.
        cache: folder of kept maps. [OUT/features]

    Attributes:
        unreadable: where the images are that this run could not read, and went on without.
    """

    def __init__(
        self,
        completion: Completion,
        out: Path,
        runtime: Runtime,
        measure: Measure,
        *,
        cache: Path | None = None,
    ) -> None:
        super().__init__(out, log=_LOG, quiet=runtime.quiet)
        self.completion, self.runtime, self.measure = completion, runtime, measure
        self.cache = cache or out / _FEATURES
        self.unreadable: set[str] = set()
        labels, settings = completion.labels, completion.settings
        self.model = self.add(
            Stage(
                "model",
                out / _MODEL,
                settings={
                    **settings.result_dict(),
                    "held_back": settings.held_back,
                    "backbone": source_identity(settings.backbone),
                },
                inputs={"labels": labels.fingerprint()},
                work=self._train,
            )
        )
        self.last = self.model
        if completion.refit:
            needs = (self.model,)
            self.last = self.add(
                Stage("refitted", out / _REFITTED, settings={}, needs=needs, work=self._refit)
            )
        measured_on = {"truth": completion.truth, "test": completion.test}
        self.result = self.add(
            Stage(
                "completed labels",
                out,
                settings={"threshold": completion.threshold},
                inputs={k: v.fingerprint() for k, v in measured_on.items() if v is not None},
                needs=(self.last,),
                work=self._write,
                beside=(_MODEL, _REFITTED, _FEATURES, FIFTYONE, _LOG),
                dated=(REPORT,),
            )
        )

    def check(self, stages: Sequence[Stage]) -> None:
        """Refuse before any work what would end it: a folder of somebody else, names that no file
        holds, images of which nothing is known."""
        from relabel.partial.result.write import check_writable
        from relabel.partial.train import check_some_known

        self.result.refuse_foreign_files()
        check_writable(self.completion.labels)
        if len(self.completion.labels):  # else the images themselves are what is missing
            check_some_known(self.completion.labels)

    @cached_property
    def _inputs(self) -> Any:
        return self._open(self.completion.labels)

    def _open(self, labels: PartialLabels) -> Any:
        from relabel.partial.features import open_inputs
        from relabel.partial.train import needs_maps

        settings = self.completion.settings
        maps = needs_maps(settings)
        inputs = open_inputs(labels, settings, self.runtime, self.cache, maps=maps)
        self.unreadable |= {
            labels.location(row) for row in np.flatnonzero(~inputs.readable).tolist()
        }
        return inputs

    def _train(self, stage: Stage) -> Outputs:
        from relabel.partial.train import train

        completion = self.completion
        # Test images are read before the training, too: what is wrong with them is said early.
        inputs = self._inputs
        if completion.test is not None:
            self._open(completion.test)
        folder = stage.folder / _NETWORK
        train(completion.labels, inputs, folder, completion.settings, self.runtime)
        return {"network": folder.name}

    def _refit(self, stage: Stage) -> Outputs:
        from relabel.partial.model import CONFIG
        from relabel.partial.refit import refit

        trained, folder = self.model.folder / _NETWORK, stage.folder / _NETWORK
        refit(trained, self.completion.labels, self._inputs, folder, self.runtime)
        if read_object(folder / CONFIG)["refitted"] is None:
            message(
                "refitting ranks the held-back labels no better: the classifiers stay as trained",
                quiet=self.runtime.quiet,
            )
        return {"network": folder.name}

    @property
    def folder(self) -> Path:
        """The trained network that completes."""
        return self.last.folder / _NETWORK

    def _write(self, stage: Stage) -> Outputs:
        from relabel.partial.predict import predict
        from relabel.partial.result.report import write_result_report
        from relabel.partial.result.summary import CompletionSummary
        from relabel.partial.result.write import write_labels
        from relabel.reports.made import made_now

        completion, out = self.completion, stage.folder
        labels, truth = completion.labels, completion.truth
        summary = CompletionSummary(labels.num_classes, seed=completion.settings.seed)
        scores = None if truth is None else _Scores(out, len(labels), labels.num_classes)

        def also(part: CompletedPart) -> None:
            rows = slice(part.start, part.start + len(part))
            summary.add(part, None if truth is None else truth.dense(rows))
            if scores is not None:
                scores.values[rows] = part.scores

        try:
            files: dict[str, str] = write_labels(out, labels.classes, self._parts(), also=also)
            tested = None
            if completion.test is not None:
                inputs = self._open(completion.test)
                tested = predict(self.folder, inputs, self.runtime).scores
            found = self.measure(completion, None if scores is None else scores.values, tested)
        finally:
            if scores is not None:
                scores.remove()
        write_result_report(
            out / REPORT,
            labels,
            summary,
            title=f"Completed labels of {labels.name}",
            threshold=completion.threshold,
            learned=self._learned(),
            metrics=found.rows,
            class_ap=found.class_ap,
            settings={
                **self.model.settings,
                "refit": completion.refit,
                **stage.settings,
            },
            made=made_now(self.seconds()),
        )
        atomic_write_json(out / METRICS, {**_counts(labels), **found.numbers}, indent=1)
        return files | {"report": REPORT, "metrics": METRICS}

    def write_fiftyone(self) -> Path:
        """Write the finished result as a FiftyOne dataset, too; returns its folder."""
        from relabel.partial.result.fiftyone_export import write_fiftyone

        folder = self.out / FIFTYONE
        write_fiftyone(folder, self.completion.labels, self._parts())
        return folder

    def _parts(self) -> Iterator[CompletedPart]:
        from relabel.partial.predict import predict_batches
        from relabel.partial.result.parts import completed_parts

        labels = self.completion.labels
        batches = predict_batches(self.folder, self._inputs, self.runtime, labels=labels)
        return completed_parts(labels, batches, self.completion.threshold)

    def _learned(self) -> np.ndarray | None:
        from relabel.partial.learned import learned_cooccurrence

        return learned_cooccurrence(self.folder, self._inputs, self.completion.labels, self.runtime)


def _counts(labels: PartialLabels) -> dict[str, int]:
    known = int(labels.known.nnz)
    return {
        "images": len(labels),
        "classes": labels.num_classes,
        "known": known,
        "completed": len(labels) * labels.num_classes - known,
    }


class _Scores:
    """Scores on the disk while they are gathered to be measured, float32 [N, C]."""

    def __init__(self, folder: Path, images: int, classes: int) -> None:
        self._file = folder / temporary_name(".f32")
        self.values = np.memmap(self._file, np.float32, "w+", shape=(images, classes))

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)
