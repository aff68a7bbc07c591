"""``relabel doctor``: what is installed, what it runs on, and what is missing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from relabel.cli import debug_option

from ._results import print_json, say, with_default


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--no-database", is_flag=True, help="Do not start FiftyOne's database.")
@with_default(
    "--timeout", click.FloatRange(min=1), 120.0, "Seconds to wait for torch, and for the database."
)
@debug_option
def cli(as_json: bool, no_database: bool, timeout: float) -> None:
    """Report versions, devices, the database, disk space, and what is missing.

    Each thing missing comes with its remedy. Exit status 1 if relabel cannot run without it.
    """
    from relabel.doctor.environment import inspect

    if not as_json:
        click.echo("Trying torch and FiftyOne's database, which can take a minute ...", err=True)
    report = inspect(database=not no_database, timeout=timeout)
    if as_json:
        print_json(report, indent=2)
    for line in () if as_json else _lines(report):
        say(line)
    if not report["ok"]:
        sys.exit(1)


def _lines(report: Mapping[str, Any]) -> list[str]:
    devices, database = report["devices"], report["database"]
    rows = [(name, version or "not installed") for name, version in report["versions"].items()]
    rows.append(("", ""))
    rows.append(("CPU cores", str(devices["cpu_cores"])))
    rows.append(("memory", _size(devices["memory_bytes"])))
    cuda = [f"cuda:{k} {d['name']}, {_size(d['memory'])}" for k, d in enumerate(devices["cuda"])]
    rows.append(("CUDA", "; ".join(cuda) or "none"))
    rows.append(("MPS", "yes" if devices["mps"] else "no"))
    pair = report["torch"]["works_with_torchvision"]
    rows.append(("torch + torchvision", "work together" if pair else "do not work together"))
    starts = {True: "starts", False: "does not start", None: "not tested"}[database["starts"]]
    rows.append(("FiftyOne database", starts))
    for name, place in report["disk"].items():
        rows.append((f"{name} folder", f"{place['path']}, {_size(place['free_bytes'])} free"))
    for name, cache in report["cache"].items():
        writable = "writable" if cache["writable"] else "not writable"
        rows.append((f"{name} cache", f"{cache['path']}, {writable}"))
    offline = report["huggingface"]["offline"]
    allowed = "not allowed (HF_HUB_OFFLINE)" if offline else "allowed; connection not tested"
    rows.append(("Hugging Face downloads", allowed))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}".rstrip() for name, value in rows]
    lines.append("")
    for problem in report["problems"]:
        lines.append(f"{problem['severity']}: {problem['message']}. {problem['remedy']}")
    if not report["problems"]:
        lines.append("Nothing is missing.")
    return lines


def _size(n: int | None) -> str:
    return "unknown" if n is None else f"{n / 1e9:.1f} GB"
