"""Writes docs/commands.md and docs/settings.md: ``python -m relabel.commands._docs``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from relabel.cli import cli

from ._sections import SECTIONS, shown_default

_NOTE = "Written by `make docs` from the help texts; do not edit."


def pages() -> dict[str, str]:
    """The generated pages by file name."""
    return {"commands.md": _commands_page(), "settings.md": _settings_page()}


def _commands_page() -> str:
    parts = ["# Commands", _NOTE]
    for path, command in _walk(cli, "relabel"):
        ctx = click.Context(
            command, info_name=path, terminal_width=80, help_option_names=["-h", "--help"]
        )
        parts.append(f"## {path}\n\n```text\n{command.get_help(ctx).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        ctx = click.Context(command, info_name=path)
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            assert found is not None
            yield from _walk(found, f"{path} {name}")


def _settings_page() -> str:
    parts = [
        "# Settings",
        _NOTE,
        "`--set SECTION.KEY=VALUE` changes a setting for one command, a table `[SECTION]` of "
        "`relabel.toml` for all. Options win over relabel.toml, and that over defaults; a preset "
        "fills in what neither changes. `relabel settings SECTION` prints a section.",
    ]
    for name, section in SECTIONS.items():
        rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
        rows += [
            f"| `{row['name']}` | `{shown_default(row['default'])}` | {row['type']} "
            f"| {row['help'].replace('|', chr(92) + '|')} |"
            for row in section.rows()
        ]
        parts += [f"## [{name}]", f"{section.title}.", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def write_pages(folder: Path) -> None:
    """Write the pages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
