"""``relabel evaluate completion``: methods that complete labels, by the published protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relabel import process
from relabel.errors import Problems
from relabel.partial.settings import CompletionSettings
from relabel.workspace.progress import message, tell_problems

from ._options import FOLDER, Given, GroupedCommand, comma_list, settings_options
from ._results import kept, print_json, print_or_save, say
from .complete import TRAINING, open_labels, open_test, tell_unreadable

if TYPE_CHECKING:
    from relabel.studies.completion.run import CompletionPlan, Subject


@click.command(cls=GroupedCommand)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="NAME|PATH",
    help="Images whose labels are known; may be repeated. [of the protocol]",
)
@click.option(
    "--methods",
    multiple=True,
    metavar="NAME,NAME",
    help="Methods, or arms of the protocol. [the protocol's, else all]",
)
@click.option("--proportions", metavar="N,N", help="Percent that stays known. [10,20,...,90]")
@click.option("--seeds", metavar="N,N", help="Of what is hidden and of trainings. [0,1,2]")
@click.option("-o", "--out", type=FOLDER, help="Folder of the results. [runs/completion]")
@click.option("--dry-run", is_flag=True, help="List the trainings and where each stands.")
@click.option("--overwrite", is_flag=True, help="Redo trainings whose settings or data changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@settings_options(("complete",), {"Training, of all methods": TRAINING})
def completion(
    datasets: tuple[str, ...],
    methods: tuple[str, ...],
    proportions: str | None,
    seeds: str | None,
    out: Path | None,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Compare methods that complete labels: mAP over the share of labels that stays known.

    The labels of a dataset's training images are hidden entry by entry; each method is trained on
    the rest, and measured on its test images and on what was hidden, as trained and with its
    classifiers refitted. Differences have bootstrap intervals over images. A table [protocol] of
    relabel.toml says what is compared, see benchmarks/protocols/completion.toml. Finished
    trainings are never redone, and several processes may share a folder.
    """
    from relabel.studies.completion import results
    from relabel.studies.completion.measure import measure_scores
    from relabel.studies.completion.protocol import read_completion_protocol
    from relabel.studies.completion.run import CompletionPlan, run_completion_plan, unreadable
    from relabel.studies.completion.train import train_and_score

    runtime = given.runtime
    base = given.of(CompletionSettings, "complete")
    if base.seed != CompletionSettings().seed:
        raise click.UsageError("trainings have the seeds of --seeds; --seed says nothing here")
    shares = _numbers("--proportions", proportions, float)
    if shares and max(shares) < 1:
        raise click.UsageError(f"--proportions are percent: 50, not 0.5; got {proportions}")
    protocol = read_completion_protocol(
        given.catalogue,
        datasets=comma_list(datasets),
        methods=comma_list(methods),
        proportions=[share / 100 for share in shares],
        seeds=_numbers("--seeds", seeds, int),
    )
    problems = Problems(runtime.skip_bad)
    plan = CompletionPlan(
        [_subject(given, name, protocol.changes(name), problems) for name in protocol.datasets],
        protocol.rows(),
        protocol.proportions,
        protocol.seeds,
        out or Path("runs") / "completion",
        base,
    )
    tell_problems(problems, runtime.quiet)
    if dry_run:
        _print_plan(plan, as_json)
        return
    command = process.command_line()
    about = {"title": protocol.title, "reference": protocol.reference}

    def save() -> None:
        results.write_completion(results.collect(plan, **about), plan.out, command)

    run_completion_plan(
        plan, train_and_score, measure_scores, runtime, overwrite=overwrite, after_each=save
    )
    tell_unreadable(unreadable(plan), runtime)
    content = results.collect(plan, **about)
    files = results.write_completion(content, plan.out, command)
    print_or_save(content, results.shown_tables(content), as_json, None)
    if not as_json:
        kept()
    message(f"wrote {files['json']} and {files['markdown']}", quiet=runtime.quiet or as_json)


def _subject(given: Given, dataset: str, changes: dict[str, Any], problems: Problems) -> Subject:
    from relabel.studies.completion.run import Subject

    train = open_labels(given, dataset, None, None, problems)
    test = open_test(given, dataset, None, None, None, problems, train)
    name = dataset if dataset in given.catalogue.entries else train.name
    return Subject(name, train, test, changes)


def _numbers(option: str, text: str | None, kind: type) -> list:
    try:
        found = [kind(part) for part in (text or "").split(",") if part.strip()]
    except ValueError:
        raise click.UsageError(f"{option} must be numbers with commas, not {text!r}") from None
    if text is not None and (not found or min(found) < 0):
        raise click.UsageError(f"{option} must be numbers of 0 or more, not {text!r}")
    return found


def _print_plan(plan: CompletionPlan, as_json: bool) -> None:
    rows = [
        {
            "dataset": cell.subject.name,
            "method": cell.arm.name,
            "known": cell.proportion,
            "seed": cell.seed,
            "status": cell.stage.status(),
        }
        for cell in plan.cells
    ]
    if as_json:
        print_json({"out": str(plan.out), "trainings": rows})
        return
    for cell, row in zip(plan.cells, rows, strict=True):
        say(f"{cell.stage.name:<40} {row['status']}")
    left = sum(row["status"] != "done" for row in rows)
    say(f"{left} of {len(rows)} trainings to run in {plan.out}")
