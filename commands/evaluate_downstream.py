"""``relabel evaluate downstream``: does a detector get better from the relabelled sources?"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, Problems
from relabel.studies.downstream.arms import ARMS, resolve_arms
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.workspace.progress import message

from ._options import (
    SHARED_FIELDS,
    GroupedCommand,
    backbone_option,
    catalogue_of,
    comma_list,
    runtime_of,
    runtime_options,
    settings_of,
    settings_options,
    settings_table,
    shared_settings,
    tell_problems,
)
from .align import pipeline_options, pipeline_settings

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue

_TABLE = "downstream"


@click.command(cls=GroupedCommand)
@click.option("--target", required=True, metavar="NAME", help="Dataset the detector is for.")
@click.option(
    "--sources", required=True, multiple=True, metavar="NAME,NAME", help="Datasets to make use of."
)
@click.option(
    "--arms",
    multiple=True,
    metavar="ARM,ARM",
    help=f"Ways of using the sources. [all: {','.join(ARMS)}]",
)
@click.option(
    "--extra",
    multiple=True,
    metavar="NAME=FILE",
    help="One more arm from a COCO file already in the target space; may be repeated.",
)
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="NAME=FILE",
    help="YAML name map of a source, of source name: target name or null; may be repeated. "
    "Default: equal names, else from the data.",
)
@click.option(
    "--detector",
    type=click.Choice(("faster-rcnn", "rt-detr")),
    help="Detector family that is compared. [faster-rcnn]",
)
@click.option("--seeds", multiple=True, metavar="N,N", help="Seeds of the trainings. [0,1,2]")
@click.option(
    "-o", "--out", type=click.Path(file_okay=False), help="Folder. [runs/downstream/TARGET]"
)
@click.option(
    "--align-dir",
    type=click.Path(file_okay=False),
    help="Workspace of `relabel align` to use or to make. [OUT/align]",
)
@click.option(
    "--shared",
    type=click.Path(file_okay=False),
    help="Folder of specialists and cross-labels that comparisons for several targets share.",
)
@backbone_option
@click.option("--overwrite", is_flag=True, help="Redo stages whose settings or data changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@settings_options(DownstreamSettings, heading="Comparison")
@runtime_options
@settings_options(
    SpecialistSettings,
    "detector",
    heading="Detector",
    leave_out=(*SHARED_FIELDS, "detector", "eval_every"),
)
@pipeline_options
def downstream(
    target: str,
    sources: tuple[str, ...],
    arms: tuple[str, ...],
    extra: tuple[str, ...],
    maps: tuple[str, ...],
    detector: str | None,
    seeds: tuple[str, ...],
    out: str | None,
    align_dir: str | None,
    shared: str | None,
    overwrite: bool,
    as_json: bool,
    **params: Any,
) -> None:
    """Train a detector per arm and seed, and compare them on the target's test images.

    Every arm has the same backbone, iterations, augmentation and seeds: mixed batches, then
    target images only in the last quarter. What align makes is made once and shared. Finished
    trainings are never redone, and several processes may run the same command on one folder.
    """
    from relabel.studies.downstream.extra import parse_extra
    from relabel.studies.downstream.report import shown_tables, write_outputs
    from relabel.studies.downstream.run import Request, compare

    started = time.monotonic()
    catalogue = catalogue_of(params)
    runtime = runtime_of(params, catalogue.table("runtime"))
    folder = Path(out) if out else Path("runs") / "downstream" / target
    names = comma_list(sources)
    request = Request(
        target=target,
        sources=tuple(names),
        arms=tuple(resolve_arms(comma_list(arms) if arms else list(ARMS))),
        extras=tuple(parse_extra(text) for text in extra),
        seeds=_seeds(seeds, catalogue),
        out=folder,
        align=Path(align_dir) if align_dir else folder / "align",
        pipeline=pipeline_settings(catalogue, params),
        detector=detector_settings(catalogue, params, detector),
        settings=settings_of(
            DownstreamSettings, params, table=_table(catalogue), where=f"[{_TABLE}]"
        ),
        shared=Path(shared) if shared else None,
        maps=_maps(maps),
    )
    problems = Problems(runtime.skip_bad)
    comparison = compare(catalogue, request, runtime, overwrite=overwrite, problems=problems)
    tell_problems(problems, runtime.quiet)
    write_outputs(folder, comparison)
    if as_json:
        click.echo(json.dumps(comparison.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        from rich.console import Console

        from relabel.evaluation.tables import rich_table

        console = Console()
        for title, table in shown_tables(comparison):
            console.print(rich_table(table, title))
        click.echo(f"Tables, curves and JSON: {folder}")
    message(f"Took {time.monotonic() - started:.0f} s.", quiet=runtime.quiet or as_json)


def detector_settings(
    catalogue: Catalogue, params: dict[str, Any], detector: str | None
) -> SpecialistSettings:
    """The compared detector: options, over [detector], over [specialist], over defaults."""
    shared = shared_settings(catalogue, params)
    table = settings_table(catalogue, "specialist") | settings_table(catalogue, "detector")
    if detector is not None:
        shared["detector"] = detector
    shared.pop("seed")  # --seeds
    return settings_of(
        SpecialistSettings, params, "detector", table=table, where="[detector]", **shared
    )


def _table(catalogue: Catalogue) -> dict[str, Any]:
    table = catalogue.table(_TABLE)
    table.pop("seeds", None)
    return table


def _seeds(given: tuple[str, ...], catalogue: Catalogue) -> tuple[int, ...]:
    written = catalogue.table(_TABLE).get("seeds", [0, 1, 2])
    texts = comma_list(given) if given else written
    try:
        seeds = tuple(int(v) for v in texts)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"seeds are {texts!r}", remedy="Give whole numbers: 0,1,2.") from error
    return tuple(dict.fromkeys(seeds))


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
