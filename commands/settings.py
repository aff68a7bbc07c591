"""``relabel settings``: every setting, with its default, range and meaning."""

from __future__ import annotations

import textwrap

import click

from relabel.cli import debug_option
from relabel.errors import did_you_mean

from ._results import print_json
from ._sections import SECTIONS, shown_default

_INDENT = " " * 6


@click.command()
@click.argument("section", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def cli(section: str | None, as_json: bool) -> None:
    """List the settings of SECTION, or of all sections.

    `--set SECTION.KEY=VALUE` changes a setting for one command, a table [SECTION] of relabel.toml
    for all. A list has commas between its values; in relabel.toml it is a list of TOML.
    """
    if section is not None and section not in SECTIONS:
        raise click.UsageError(f"no section {section!r}. {did_you_mean(section, SECTIONS)}")
    names = [section] if section else list(SECTIONS)
    if as_json:
        found = {
            name: {"title": SECTIONS[name].title, "settings": list(SECTIONS[name].rows())}
            for name in names
        }
        print_json(found)
        return
    click.echo("\n\n".join(_section(name) for name in names))


def _section(name: str) -> str:
    lines = [f"[{name}] {SECTIONS[name].title}"]
    for row in SECTIONS[name].rows():
        lines.append(f"  {row['name']} = {shown_default(row['default'])}   ({row['type']})")
        lines += textwrap.wrap(row["help"], 80, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return "\n".join(lines)
