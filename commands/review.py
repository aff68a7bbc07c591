"""``relabel review``: what people decided in the FiftyOne App, as a file."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections import Counter
from pathlib import Path

import click

from relabel.cli import debug_option
from relabel.errors import ConfigError
from relabel.workspace.progress import message

from ._results import FILE, kept, print_json


@click.group()
def cli() -> None:
    """Keep what was decided in the FiftyOne App.

    `relabel view RUN` opens a run; its panel "Review" accepts, rejects, relabels and restores.
    """


@cli.command("export")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the FiftyOne dataset. [relabel-FOLDER]")
@click.option("-o", "--out", type=FILE, metavar="FILE", help="[RUN/decisions.json]")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@debug_option
def export(run: Path, name: str | None, out: Path | None, as_json: bool) -> None:
    """Write the decisions about a run, for `relabel align --review`.

    The file is COCO: all labels as they stand, each with who decided it (`decided_by`, human or
    model), when, and what it was before; those that were rejected stand apart. Changes made with
    FiftyOne's own tools count, too. An earlier file with other decisions is kept beside it.
    """
    from relabel import viewer
    from relabel.review.decisions import DECISIONS_FILE
    from relabel.review.export import export_decisions

    sources = viewer.find_sources(run)
    name = name or viewer.default_name(run)
    file = out or (run if run.is_dir() else run.parent) / DECISIONS_FILE
    root = viewer.result_folder(run)
    if file.is_dir() or file.resolve().is_relative_to(root.resolve()):
        raise ConfigError(
            "is a folder" if file.is_dir() else "lies in the result, which the next run replaces",
            file=file,
            remedy="Choose another -o FILE.",
        )
    with contextlib.redirect_stdout(sys.stderr):
        fo = viewer.start()
        if not fo.dataset_exists(name):
            raise ConfigError(
                f"FiftyOne has no dataset {name!r}",
                remedy=f"Load it with `relabel view {shlex.quote(str(run))}`, or give its --name.",
            )
        dataset = fo.load_dataset(name)
        loaded = viewer.labels_as_loaded(dataset, sources)
        decided, beside = export_decisions(dataset, file, root, loaded)
    if beside is not None:
        message(f"The earlier file had other decisions and is kept: {beside}")
    counts = Counter(one.verdict for one in decided)
    if as_json:
        print_json({"decisions": str(file), "counts": counts, "kept": beside and str(beside)})
        return
    words = ", ".join(f"{n:,} {verdict}" for verdict, n in counts.items()) or "none"
    kept(f"{len(decided):,} decisions ({words}): {file}")
    message("Next: the same `relabel align` command with")
    message(f"    --review {shlex.quote(str(file))}")
