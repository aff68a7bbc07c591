"""What the subcommands of ``relabel evaluate`` share: their options, and giving the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relabel.cli import debug_option

if TYPE_CHECKING:
    from relabel.evaluation.tables import Rows

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)


def file_option(flag: str, help: str, *, required: bool = False, metavar: str = "FILE") -> Any:
    """An option that takes a file, or by its metavar a folder."""
    return click.option(flag, type=FILE, required=required, metavar=metavar, help=help)


def with_default(flag: str, type: click.ParamType, default: Any, help: str) -> Any:
    """An option whose help shows its default."""
    return click.option(flag, type=type, default=default, show_default=True, help=help)


def result_options(function: F) -> F:
    """``--json``, ``--out`` and ``--debug``."""
    for decorator in (
        debug_option,
        click.option("--out", type=FILE, metavar="FILE", help="Also write the JSON there."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables."),
    ):
        function = decorator(function)
    return function


def warn(warnings: Sequence[str]) -> None:
    """Warnings to stderr."""
    for text in warnings:
        click.echo(f"relabel: warning: {text}", err=True)


def print_or_save(
    content: dict[str, Any], shown: Sequence[tuple[str, Rows]], as_json: bool, out: Path | None
) -> None:
    """Write the JSON to ``out`` if given; print JSON or the tables."""
    if out is not None:
        from relabel.workspace.atomic import atomic_write_json

        atomic_write_json(out, content, indent=2)
        click.echo(f"relabel: wrote {out}", err=True)
    if as_json:
        click.echo(json.dumps(content, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    from relabel.evaluation.tables import rich_table

    console = Console()
    for title, table in shown:
        console.print(rich_table(table, title))
