"""``relabel demo``: a small rendered world, and the whole job on it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from relabel.cli import State, debug_option
from relabel.workspace.progress import message

from ._results import kept, print_json, with_default


@click.command()
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for the world and the result.",
)
@with_default("--images", click.IntRange(min=4), 120, "Training images per dataset.")
@click.option(
    "--target-images",
    type=click.IntRange(min=4),
    help="Training images of the target, if not as many.",
)
@with_default("--val-images", click.IntRange(min=1), 40, "Validation images of the target.")
@with_default(
    "--seed", click.IntRange(min=0), 0, "Seed of the world and of everything random in training."
)
@with_default(
    "--effort",
    click.FloatRange(min=0, min_open=True),
    1.0,
    "Scale of the length of every training.",
)
@click.option("--world-only", is_flag=True, help="Write the datasets and stop.")
@click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda, mps.")
@click.option(
    "--overwrite", is_flag=True, help="Redo what an earlier demo did with other settings."
)
@click.option("--quiet", is_flag=True, help="Print no progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
@debug_option
@click.pass_context
def cli(
    ctx: click.Context,
    out: Path,
    images: int,
    target_images: int | None,
    val_images: int,
    seed: int,
    effort: float,
    world_only: bool,
    device: str,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make a small world of street scenes and run align on it.

    Draws scenes and writes them as Cityscapes, Waymo v2 and nuImages, each in its own layout and
    labelling convention, then relabels Waymo and nuImages in the label space of Cityscapes and
    scores the result against the known truth. Says first how long it will take: about four
    minutes on two free cores. The same command resumes what was interrupted.
    """
    from relabel.demo.build import WORLD_FILE, write_world
    from relabel.demo.run import prepare_demo, run_demo

    started = time.monotonic()
    counts: dict[str, Any] = {"images": images, "val_images": val_images}
    counts["target_images"] = target_images
    if world_only:
        world = write_world(out, **counts, seed=seed, quiet=quiet)
        kept(str(world.root))
        return

    state = ctx.find_root().ensure_object(State)

    def align(config: Path, workspace: Path) -> None:
        _align(config, workspace, state, device, overwrite, quiet)

    if not quiet and not (out / WORLD_FILE).exists():
        state = replace(
            state,
            expected=_announce(images, target_images or images, val_images, effort, device),
        )
    world, file = prepare_demo(out, **counts, seed=seed, effort=effort, quiet=quiet)
    result = run_demo(world, file, align, quiet=quiet)
    if as_json:
        scores = {o.name: {m.name: m.to_dict() for m in o.scores} for o in result.outcomes}
        print_json(scores)
        return
    _print(result, time.monotonic() - started)


def _announce(
    images: int, target_images: int, val_images: int, effort: float, device: str
) -> dict[str, float]:
    """Say on stderr how long all of it will take; seconds of align's stages by name."""
    message("Trying how fast this machine is")
    from relabel.demo.estimate import expected_parts
    from relabel.training.loop import resolve_device
    from relabel.workspace.estimate import announced

    found, stages = expected_parts(
        images=images,
        target_images=target_images,
        val_images=val_images,
        effort=effort,
        device=device,
    )
    message(f"The demo takes {announced(found, resolve_device(device).type)}.")
    return stages


def _align(
    config: Path, workspace: Path, state: State, device: str, overwrite: bool, quiet: bool
) -> None:
    """`relabel align` as typed, except that its closing lines go to stderr.

    Standard output is kept for the scores.
    """
    import contextlib
    import sys

    from relabel.demo.build import SOURCES, TARGET

    from .align import cli as command

    args = ["--target", TARGET, "--sources", ",".join(SOURCES)]
    args += ["--out", str(workspace), "--config", str(config), "--device", device]
    args += ["--overwrite"] * overwrite + ["--quiet"] * quiet
    with contextlib.redirect_stdout(sys.stderr):
        command.main(args, prog_name="relabel align", standalone_mode=False, obj=state)


def _print(result: Any, seconds: float) -> None:
    from rich.console import Console

    from relabel.evaluation.tables import rich_table

    console = Console(highlight=False, width=None if Console().is_terminal else 100)
    for outcome in result.outcomes:
        title = f"{outcome.name} in the label space of cityscapes, percent"
        console.print(rich_table(outcome.rows, title))
    for file in result.files:
        kept(str(file))
    message(f"Took {seconds:.0f} s.")
