"""What the subcommands of ``relabel evaluate`` share: their options, and giving the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relabel import process
from relabel.cli import debug_option
from relabel.errors import ConfigError, DataError, shown, with_urls
from relabel.workspace.progress import message

if TYPE_CHECKING:
    from relabel.evaluation.tables import Rows
    from relabel.workspace.estimate import Forecast

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)


def file_option(flag: str, help: str, *, required: bool = False, metavar: str = "FILE") -> Any:
    """An option that takes a file, or by its metavar a folder."""
    return click.option(flag, type=FILE, required=required, metavar=metavar, help=help)


def with_default(flag: str, type: click.ParamType, default: Any, help: str) -> Any:
    """An option whose help shows its default."""
    return click.option(flag, type=type, default=default, show_default=True, help=help)


def result_options(function: F) -> F:
    """``--json``, ``--out`` and ``--debug``; ``--out`` is refused if it is another of the files."""

    @wraps(function)
    def checked(*args: Any, **given: Any) -> Any:
        out = given["out"]
        if out is not None and out.exists():
            for value in given.values():
                # A link to the input is the input, too.
                is_file = value is not out and isinstance(value, Path) and value.exists()
                if is_file and out.samefile(value):
                    raise ConfigError(
                        "is an input, and would be written over",
                        file=out,
                        remedy="Choose another --out.",
                    )
        return function(*args, **given)

    wrapped: Any = checked
    for decorator in (
        debug_option,
        click.option("--out", type=FILE, metavar="FILE", help="Also write the JSON there."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables."),
    ):
        wrapped = decorator(wrapped)
    return wrapped


def warn(warnings: Sequence[str]) -> None:
    """Warnings to stderr."""
    for text in warnings:
        message(f"relabel: warning: {text}")


def say(text: str) -> None:
    """Print one line; what it holds of files and names is shown as data."""
    click.echo(shown(text))


def print_forecast(forecast: Forecast, as_json: bool, **more: Any) -> None:
    """What a job will take, on stdout: lines, or JSON with ``more``."""
    if as_json:
        print_json({**more, **forecast.to_dict()})
        return
    for line in forecast.lines():
        say(line)


def print_json(content: Any, indent: int | None = None) -> None:
    """Print JSON; what would do something to a terminal is written as an escape."""
    text = with_urls(json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent))
    click.echo("\n".join(map(_escaped, text.split("\n"))))


def kept(text: str = "") -> None:
    """The last words of a command whose work is in files, and told by them alone.

    Where standard output cannot be written, that is a warning: the work is done.
    """
    if text:
        say(text)
    lost = process.take_output_failure()
    if lost is not None:
        message(f"relabel: warning: standard output cannot be written: {lost}")


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    # DEL is not escaped by json itself.
    escapes = {c: json.dumps(c)[1:-1] if c > "\x7f" else f"\\u{ord(c):04x}" for c in set(text)}
    return "".join(c if c.isprintable() else escapes[c] for c in text)


def _is_result(file: Path, content: dict[str, Any]) -> bool:
    """True of a JSON file with most of the fields, as the same command wrote at another time."""
    from relabel.files.json_text import read_json

    try:
        found = read_json(file)
    except DataError:
        return False
    return isinstance(found, dict) and 2 * len(found.keys() & content.keys()) >= len(content)


def print_or_save(
    content: dict[str, Any], tables: Sequence[tuple[str, Rows]], as_json: bool, out: Path | None
) -> None:
    """Write the JSON to ``out`` if given; print JSON or the tables.

    Raises:
        ConfigError: ``out`` is there, and is no earlier result of the same kind.
    """
    if out is not None:
        from relabel.workspace.atomic import atomic_write_json

        if out.exists() and not _is_result(out, content):
            raise ConfigError(
                "is there already, and is no result of this command",
                file=out,
                remedy="Choose another --out.",
            )
        atomic_write_json(out, content, indent=2)
        message(f"relabel: wrote {out}")
    if as_json:
        print_json(content)
        return
    from rich.console import Console

    from relabel.evaluation.tables import rich_table

    console = Console()
    for title, table in tables:
        console.print(rich_table(table, title))
