"""Does it help? The papers' comparison: a detector per arm and seed, on every target of a protocol.

    python benchmarks/downstream.py benchmarks/protocols/tollroad.toml --out DIR

Runs `relabel evaluate downstream` for every target, detector and schedule of the protocol. What is
finished is never redone: the same command goes on after an interruption. Without a size it is
meant for a GPU; ``--size small --jobs 2`` is for two cores, where two processes of one thread each
are nearly twice as fast as one of two threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from relabel.commands._options import Given  # pyright: ignore[reportMissingImports]
from relabel.commands.align import pipeline_settings  # pyright: ignore[reportMissingImports]
from relabel.commands.evaluate_downstream import (  # pyright: ignore[reportMissingImports]
    detector_settings,
)

from relabel.catalogue.catalogue import load_catalogue
from relabel.detectors.semi.settings import SemiSettings
from relabel.errors import ConfigError, RelabelError, did_you_mean
from relabel.evaluation.tables import markdown
from relabel.settings import Runtime
from relabel.studies.downstream.arms import resolve_arms
from relabel.studies.downstream.protocol import ProtocolRun, read_protocol, with_size
from relabel.studies.downstream.run import Request, compare, labels_alone
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.workspace.atomic import atomic_write_bytes
from relabel.workspace.progress import message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relabel.catalogue.catalogue import Catalogue
    from relabel.studies.downstream.direct import Point
    from relabel.studies.downstream.results import Comparison


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("protocol", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", help="one of [protocol.sizes]; default: the protocol's own")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the work")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--targets", help="only these targets, with commas")
    parser.add_argument("--sets", help="only these sets of sources, with commas")
    parser.add_argument("--arms", help="only these arms, with commas")
    parser.add_argument("--seeds", help="only these seeds, with commas")
    parser.add_argument("--labels-only", action="store_true", help="measure labels, no detectors")
    parser.add_argument("--report", type=Path, help="also write all tables as one Markdown file")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    others = helpers(args.jobs)
    try:
        compare_all(args)
    except RelabelError as error:
        print(f"downstream: error: {error}", file=sys.stderr)
        return 1
    finally:
        for process in others:
            process.wait()
    return 0


def helpers(jobs: int) -> list[subprocess.Popen[bytes]]:
    """More processes with the same arguments; each takes what no other works on."""
    if jobs < 2:
        return []
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    os.environ["OMP_NUM_THREADS"] = threads
    import torch

    torch.set_num_threads(int(threads))
    command = [sys.executable, __file__, *sys.argv[1:], "--jobs", "1"]
    return [subprocess.Popen(command) for _ in range(jobs - 1)]


def compare_all(args: argparse.Namespace) -> None:
    """Every comparison of the protocol, one after the other."""
    from relabel.studies.downstream.direct import points_of, quality_rows
    from relabel.studies.downstream.outputs import write_outputs
    from relabel.studies.downstream.report import markdown_report

    catalogue = load_catalogue(config=args.protocol)
    if args.size:
        catalogue = with_size(catalogue, args.size)
    protocol = read_protocol(catalogue)
    runtime = Runtime(device=args.device)
    check_names(protocol.runs(), args)
    sections, points = [f"# {protocol.title}\n"], []
    for run in protocol.runs():
        run = narrowed(run, args)
        if run is None:
            continue
        message(f"{protocol.title}: {run.folder}")
        request = request_of(catalogue, run, args.out)
        if args.labels_only:
            print(markdown(quality_rows(labels_alone(catalogue, request, runtime))))
            continue
        comparison = compare(catalogue, request, runtime, overwrite=args.overwrite)
        comparison = replace(comparison, command=command_line(args))
        write_outputs(request.out, comparison)
        show(comparison)
        sections += [f"## {run.folder}\n", markdown_report(comparison)]
        points += points_of(comparison, run.folder)
    if args.labels_only:
        return
    sections.append(all_direct(points, protocol.title, args.out))
    if args.report:
        atomic_write_bytes(args.report, "\n".join(sections).encode())


def all_direct(points: list[Point], title: str, out: Path) -> str:
    """Quality of labels and of detectors over all comparisons: a section and ``direct.svg``."""
    from relabel.reports.charts import save_figure
    from relabel.studies.downstream.plots import direct_figure
    from relabel.studies.downstream.report import correlation_section

    if len({point.comparison for point in points}) < 2:
        return ""
    save_figure(direct_figure(points, f"Labels and detectors ({title})"), out / "direct")
    text = correlation_section(points)
    return f"## Direct and downstream quality, all comparisons\n\n{text}"


def check_names(runs: Sequence[ProtocolRun], args: argparse.Namespace) -> None:
    """Raises ConfigError for a name that narrows the protocol to nothing it has."""
    known = {
        "targets": {run.target for run in runs},
        "sets": {run.source_set for run in runs},
        "arms": {name for run in runs for name in (*run.arms, *run.extra)},
    }
    for option, names in known.items():
        for name in (getattr(args, option) or "").split(","):
            if name and name not in names:
                message = f"--{option}: the protocol has no {name!r}"
                raise ConfigError(
                    message, file=args.protocol, remedy=did_you_mean(name, sorted(names))
                )


def narrowed(run: ProtocolRun, args: argparse.Namespace) -> ProtocolRun | None:
    """The run with what the command line leaves of it; None if that is nothing."""
    if args.targets and run.target not in args.targets.split(","):
        return None
    if args.sets and run.source_set not in args.sets.split(","):
        return None
    if args.arms:
        wanted = args.arms.split(",")
        run = replace(
            run,
            arms=tuple(a for a in run.arms if a in wanted),
            extra={n: f for n, f in run.extra.items() if n in wanted},
        )
    if args.seeds:
        run = replace(run, seeds=tuple(int(s) for s in args.seeds.split(",")))
    return run if run.arms or run.extra else None


def request_of(catalogue: Catalogue, run: ProtocolRun, out: Path) -> Request:
    """What `relabel evaluate downstream` would be asked for."""
    given = Given(catalogue)
    detector = detector_settings(given, detector=run.detector)
    if run.factor != 1:
        steps, epochs = round(detector.steps * run.factor), detector.epochs * run.factor
        detector = replace(detector, steps=steps, epochs=epochs)
    return Request(
        target=run.target,
        sources=run.sources,
        arms=tuple(resolve_arms(run.arms)) if run.arms else (),
        extras=tuple(run.extra.items()),
        out=out / run.folder,
        align=out / run.workspace / "align",
        shared=out / "shared",
        pipeline=pipeline_settings(given),
        detector=detector,
        settings=replace(given.of(DownstreamSettings, "downstream"), seeds=run.seeds),
        semi=given.of(SemiSettings, "semi"),
        maps=run.maps,
        truth=run.truth,
    )


def command_line(args: argparse.Namespace) -> str:
    """The command without what depends on the machine."""
    size = f" --size {args.size}" if args.size else ""
    jobs = f" --jobs {args.jobs}" if args.jobs > 1 else ""
    protocol = f"benchmarks/protocols/{args.protocol.name}"
    return f"python benchmarks/downstream.py {protocol} --out DIR{size}{jobs}"


def show(comparison: Comparison) -> None:
    from rich.console import Console

    from relabel.evaluation.tables import rich_table
    from relabel.studies.downstream.report import shown_tables

    console = Console()
    for title, table in shown_tables(comparison):
        console.print(rich_table(table, title))


if __name__ == "__main__":
    sys.exit(main())
