"""``relabel evaluate downstream``: does a detector get better from the relabelled sources?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.settings import DetectorSettings
from relabel.errors import Problems
from relabel.studies.downstream.arms import ARMS, resolve_arms
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.workspace.progress import message, tell_problems

from ._options import (
    FOLDER,
    Given,
    GroupedCommand,
    comma_list,
    settings_options,
)
from ._results import kept, print_or_save
from .align import PIPELINE, PIPELINE_OPTIONS, SHARED, pipeline_settings


@click.command(cls=GroupedCommand)
@click.option("--target", required=True, metavar="NAME", help="Dataset the detector is for.")
@click.option(
    "--sources", required=True, multiple=True, metavar="NAME,NAME", help="Datasets to make use of."
)
@click.option("--arms", multiple=True, metavar="ARM,ARM", help=f"[all: {','.join(ARMS)}]")
@click.option(
    "--extra",
    multiple=True,
    metavar="NAME=FILE",
    help="An arm from a COCO file in the target space; may be repeated.",
)
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="NAME=FILE",
    help="YAML of source name: target name or null, for a source; may be repeated. [from data]",
)
@click.option("-o", "--out", type=FOLDER, help="Folder. [runs/downstream/TARGET]")
@click.option(
    "--align-dir",
    type=FOLDER,
    metavar="DIR",
    help="Workspace of `relabel align`. [OUT/align]",
)
@SHARED
@click.option("--overwrite", is_flag=True, help="Redo stages whose settings or data changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@settings_options(
    ("downstream", "detector", "semi", *PIPELINE),
    {
        "Compared detector": (
            ("--detector", "detector.detector"),
            ("--backbone", "detector.backbone specialist.backbone", "The specialists' as well."),
            ("--detector-preset", "detector.preset", "For a few cores, or as published. [light]"),
            ("--detector-epochs", "detector.epochs"),
            ("--detector-steps", "detector.steps", "Training steps; 0: by epochs."),
            ("--detector-batch-size", "detector.batch_size", "Images per step."),
            ("--detector-image-size", "detector.image_size", "Short side of images in pixels."),
            ("--detector-lr", "detector.lr", "Peak learning rate."),
            ("--seeds", "downstream.seeds"),
        ),
        "Label-Aligned Transfer": PIPELINE_OPTIONS["Label-Aligned Transfer"],
    },
)
def downstream(
    target: str,
    sources: tuple[str, ...],
    arms: tuple[str, ...],
    extra: tuple[str, ...],
    maps: tuple[str, ...],
    out: Path | None,
    align_dir: Path | None,
    shared: Path | None,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Train a detector per arm and seed, and compare them on the target's test images.

    Every arm has the same backbone, iterations, augmentation and seeds: mixed batches, then
    target images only in the last quarter. What align makes is made once and shared. Finished
    trainings are never redone, and several processes may run the same command on one folder.
    """
    from relabel.studies.downstream.extra import parse_extra
    from relabel.studies.downstream.outputs import write_outputs
    from relabel.studies.downstream.report import json_result, shown_tables
    from relabel.studies.downstream.run import Request, compare

    started = time.monotonic()
    runtime = given.runtime
    settings = given.of(DownstreamSettings, "downstream")
    folder = out or Path("runs") / "downstream" / target
    request = Request(
        target=target,
        sources=tuple(comma_list(sources)),
        arms=tuple(resolve_arms(comma_list(arms) if arms else list(ARMS))),
        extras=tuple((name, (file,)) for name, file in map(parse_extra, extra)),
        out=folder,
        align=align_dir or folder / "align",
        pipeline=pipeline_settings(given),
        detector=detector_settings(given),
        settings=settings,
        semi=given.of(SemiSettings, "semi"),
        shared=shared,
        maps=_maps(maps),
    )
    problems = Problems(runtime.skip_bad)
    comparison = compare(given.catalogue, request, runtime, overwrite=overwrite, problems=problems)
    tell_problems(problems, runtime.quiet)
    write_outputs(folder, comparison)
    print_or_save(json_result(comparison), shown_tables(comparison), as_json, None)
    if not as_json:
        kept(f"Tables, curves and JSON: {folder}")
    message(f"Took {time.monotonic() - started:.0f} s.", quiet=runtime.quiet or as_json)


def detector_settings(given: Given, **over: Any) -> DetectorSettings:
    """The compared detector: options, over ``over``, over [detector], over [specialist]."""
    return given.of(DetectorSettings, "detector", under=given.table("specialist"), over=over)


def _maps(given: tuple[str, ...]) -> dict[str, Path]:
    maps: dict[str, Path] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise click.UsageError(f"--map takes NAME=FILE, not {text!r}")
        if name in maps:
            raise click.UsageError(f"--map is given twice for {name!r}")
        maps[name] = Path(value).expanduser()
    return maps
