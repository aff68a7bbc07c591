"""``relabel cross-label``: pseudo-labels on a dataset by another dataset's specialist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from relabel.crosslabel.settings import CrossLabelSettings
from relabel.errors import Problems
from relabel.workspace.progress import message

from ._options import (
    GroupedCommand,
    catalogue_of,
    runtime_of,
    runtime_options,
    settings_of,
    settings_options,
    settings_table,
    tell_problems,
)


@click.command("cross-label", cls=GroupedCommand)
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False))
@click.argument("dataset")
@click.option("--format", help="Format, where DATASET is a path.")
@click.option("--split", help="Split to label; default the one of relabel.toml.")
@click.option(
    "-o", "--out", required=True, type=click.Path(file_okay=False), help="Folder for the shards."
)
@click.option("--overwrite", is_flag=True, help="Start anew where settings or data changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@settings_options(CrossLabelSettings, heading="Labelling")
@runtime_options
def cli(
    checkpoint: str,
    dataset: str,
    format: str | None,
    split: str | None,
    out: str,
    overwrite: bool,
    as_json: bool,
    **params: Any,
) -> None:
    """Label the images of DATASET with the specialist in CHECKPOINT.

    Writes Parquet shards with the full score vector of every box. Finished shards are never
    redone: the same command goes on after an interruption.
    """
    from relabel.align.inputs import read_training_set
    from relabel.align.settings import stage_settings
    from relabel.crosslabel.pseudo import read_pseudo_labels
    from relabel.workspace.fingerprint import dataset_fingerprint, folder_fingerprint
    from relabel.workspace.stage import Stage

    catalogue = catalogue_of(params)
    runtime = runtime_of(params, catalogue.table("runtime"))
    settings = settings_of(
        CrossLabelSettings,
        params,
        table=settings_table(catalogue, "crosslabel"),
        where="[crosslabel]",
    )
    entry = catalogue.resolve(dataset, format, split)
    folder = Path(out)
    problems = Problems(runtime.skip_bad)
    images = read_training_set(entry, folder.parent, runtime, problems)
    tell_problems(problems, runtime.quiet)
    stage = Stage(
        f"labels on {entry.name}",
        folder,
        settings=stage_settings(settings),
        inputs={
            "specialist": folder_fingerprint(checkpoint),
            "images": dataset_fingerprint(images, boxes=False),
        },
    )
    status = stage.status()
    if status == "changed" and not overwrite:
        raise stage.changed_error()
    if status == "done":
        message("Labelled already.", quiet=runtime.quiet)
    else:
        from relabel.align.run import files_in
        from relabel.crosslabel.label import cross_label

        stage.begin(overwrite=status == "changed")
        try:
            cross_label(Path(checkpoint), images, folder, settings, runtime)
            stage.finish(files_in(folder))
        finally:
            stage.release()
    labels = read_pseudo_labels(folder)
    counts = {"images": len(images), "boxes": len(labels), "by": labels.by, "on": labels.on}
    if as_json:
        click.echo(json.dumps({"out": out, **counts}))
    else:
        click.echo(f"{len(labels)} boxes on {len(images)} images: {out}")
