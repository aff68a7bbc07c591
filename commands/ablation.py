"""``relabel evaluate ablation``: what each part of label transfer brings, on held-back images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from relabel import process
from relabel.errors import Problems
from relabel.lat.settings import LatSettings
from relabel.studies.ablation.arms import GROUPS, select_arms
from relabel.workspace.progress import message, tell_problems

from ._options import (
    Given,
    GroupedCommand,
    comma_list,
    resolve_network,
    settings_options,
)
from ._results import kept, print_json, print_or_save, say

if TYPE_CHECKING:
    from relabel.studies.ablation.run import AblationPlan


@click.command("ablation", cls=GroupedCommand)
@click.option(
    "--run",
    "folder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Workspace of `relabel align`, of which the labels are used.",
)
@click.option(
    "--shared",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of specialists and cross-labels, where align was given one.",
)
@click.option(
    "--simulate",
    "simulated",
    required=True,
    metavar="SOURCE",
    help="Source that held-back images stand for.",
)
@click.option(
    "--arms",
    multiple=True,
    metavar="NAME,NAME",
    help=f"Arms or groups: {', '.join(GROUPS[1:])}. [all]",
)
@click.option("--seeds", default="0", show_default=True, metavar="N,N", help="Seeds of every arm.")
@click.option("--other-backbone", metavar="NAME", help="Hub id or folder for the arm of that name.")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the results. [RUN/ablation/SOURCE]",
)
@click.option("--dry-run", is_flag=True, help="List the trainings and where each stands.")
@click.option("--overwrite", is_flag=True, help="Redo arms whose settings or inputs changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@settings_options(
    ("lat",),
    {
        "Label-Aligned Transfer, for every arm": (
            ("--epochs", "lat.epochs"),
            ("--steps", "lat.steps"),
            ("--backbone", "lat.backbone"),
        )
    },
)
def cli(
    folder: Path,
    shared: Path | None,
    simulated: str,
    arms: tuple[str, ...],
    seeds: str,
    other_backbone: str | None,
    out: Path | None,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    given: Given,
) -> None:
    """Measure what each part of label transfer brings, one table over arms and seeds.

    The last cross-fitting fold of the target's training images is held back and annotated as the
    source would have done it; every arm trains label transfer on the rest and is scored on the
    fold. No true label of a source's image is read. By default an arm trains one model, whose
    labels are what scores 0.5 or more. Finished arms are never redone: the same command resumes,
    and the table shows all that is finished in the folder.
    """
    from relabel.studies.ablation import results
    from relabel.studies.ablation.inputs import check_simulated, read_align_run
    from relabel.studies.ablation.run import COMMON, AblationPlan, run_ablation

    runtime = given.runtime
    if other_backbone is not None:
        other_backbone = resolve_network(
            other_backbone, Path.cwd(), what="backbone", option="--other-backbone"
        )
    run = read_align_run(folder, shared)
    check_simulated(run, simulated)
    plan = AblationPlan(
        run=run,
        simulated=simulated,
        out=out or folder / "ablation" / simulated,
        # Options win over the ablation's own settings, those over relabel.toml.
        base=given.of(LatSettings, "lat", over=COMMON).resolved(),
        arms=tuple(select_arms(comma_list(arms), with_backbone=other_backbone is not None)),
        seeds=_seeds(seeds),
        other_backbone=other_backbone,
    )
    if dry_run:
        _print_plan(plan, as_json)
        return
    command = process.command_line()
    problems = Problems(runtime.skip_bad)

    def save() -> None:
        results.write_ablation(results.collect(plan), plan.out, command)

    run_ablation(
        plan,
        given.catalogue,
        runtime,
        overwrite=overwrite,
        problems=problems,
        after_each=save,
    )
    tell_problems(problems, runtime.quiet)
    content = results.collect(plan)
    files = results.write_ablation(content, plan.out, command)
    shown = [("Ablation, in percent", results.ablation_table(content))]
    print_or_save(content, shown, as_json, None)
    if not as_json:
        kept()
    message(f"wrote {files['json']} and {files['markdown']}", quiet=runtime.quiet or as_json)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise click.UsageError(f"--seeds must be whole numbers with commas, not {text!r}") from None
    if min(seeds) < 0:
        raise click.UsageError(f"--seeds must not be negative: {text}")
    return seeds


def _print_plan(plan: AblationPlan, as_json: bool) -> None:
    rows = [
        {"arm": job.arm.name, "seed": job.seed, "status": job.stage.status()} for job in plan.jobs
    ]
    if as_json:
        print_json({"out": str(plan.out), "trainings": rows})
        return
    for row in rows:
        say(f"{row['arm']:<28} seed {row['seed']}  {row['status']}")
    left = sum(row["status"] != "done" for row in rows)
    say(f"{left} of {len(rows)} trainings to run in {plan.out}")
