"""What a child does: one command line of relabel, stopped before anything is trained."""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Any

_LIGHT = (
    "relabel.commands.datasets",
    "relabel.commands.evaluate",
    "relabel.align.inputs",
    "relabel.catalogue.catalogue",
    "relabel.datasets.classes",
    "relabel.datasets.convert",
    "relabel.datasets.describe",
    "relabel.datasets.fingerprint",
    "relabel.datasets.pixels.image_folder",
    "relabel.datasets.validate",
    "relabel.evaluation.detections",
    "relabel.evaluation.errors",
    "relabel.evaluation.multilabel.evaluate",
    "relabel.evaluation.tables",
    "relabel.evaluation.transfer",
    "relabel.workspace.columns",
    "hotcoco",
    "pyarrow.parquet",
    "pandas",
    "PIL.Image",
    "rich._emoji_codes",
    "rich.console",
    "rich.table",
    "tomllib",
    "xml.etree.ElementTree",
    "yaml",
)
_HEAVY = (
    "relabel.classifiers.inputs",
    "relabel.commands.align",
    "relabel.commands.imagenet_multilabel",
    "relabel.commands.train_classifier",
    "relabel.commands.train_specialist",
    "relabel.align.job",
    "relabel.align.plan",
    "relabel.backbones.extractor",
    "relabel.detectors.load",
    "relabel.detectors.faster_rcnn",
    "relabel.multilabel.plan",
    "relabel.multilabel.run",
    "relabel.multilabel.scores.label_maps",
    "transformers",
)


_NO_TORCH = ("datasets", "evaluate", "call:image_folder", "call:training_set")


def needs_torch(args: list[str]) -> bool:
    """Whether a command imports torch."""
    return args[0] not in _NO_TORCH


def preload(*, heavy: bool) -> None:
    """Import what commands need, so that children need not."""
    from PIL import Image

    from relabel.datasets.formats.registry import FORMATS
    from relabel.datasets.labelspace import LabelSpace

    for name in _LIGHT + (_HEAVY if heavy else ()):
        importlib.import_module(name)
    for info in FORMATS.values():
        for module in (info.reader, info.writer):
            if module is not None:
                importlib.import_module(f"relabel.datasets.formats.{module}")
    Image.init()
    LabelSpace.load("coco")
    gc.collect()
    gc.freeze()  # children share what they do not write


def _stopped(self: Any, *_: Any, **__: Any) -> bool:
    """In place of `Stage.run`: what is read was read."""
    raise SystemExit(0)


def _measure_nothing() -> None:
    """A dry run would train or label for a minute."""
    from relabel.align import estimate
    from relabel.multilabel import run

    estimate._costs = lambda plan: None
    run.measured = _stopped


def run_command(args: list[str]) -> int:
    """The exit status of ``relabel`` with these arguments."""
    from relabel import cli
    from relabel.workspace.stage import Stage

    Stage.run = _stopped  # type: ignore[method-assign]
    if args[0] == "train-classifier":
        Stage.status = _stopped  # type: ignore[method-assign]
    if args[0].startswith("call:"):
        return _call(args)
    if "--dry-run" in args:
        _measure_nothing()
    try:
        cli.main(args)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def _call(args: list[str]) -> int:
    from relabel import cli
    from tests.fuzz.calls import CALLS

    try:
        CALLS[args[0].removeprefix("call:")](*args[1:])
    except Exception as error:
        return cli._report(error, False)
    sys.stdout.flush()
    return 0
