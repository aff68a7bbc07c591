"""README and docs name commands, options, settings, messages, files and pictures that exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from relabel.commands._options import Assignment  # pyright: ignore[reportMissingImports]
from relabel.commands._sections import SECTIONS  # pyright: ignore[reportMissingImports]

from relabel.cli import cli
from relabel.settings import fit_values

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
    ]
)
# Their figures and commands are those of the day they were measured.
MEASURED = {ROOT / "benchmarks" / f"{name}.md" for name in ("downstream", "lat_ablation")}
# Options of other programs, benchmarks among them, that pages name.
FOREIGN = {"--headless", "--hide-scrollbars", "--screenshot", "--window-size", "--nproc-per-node"}
FOREIGN |= {"--size", "--jobs"}
# `labels.py` is a file, `labels.mode` a setting.
FILE_TYPES = {"csv", "json", "log", "md", "parquet", "png", "py", "toml", "tsv"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def code_lines(text: str) -> Iterator[str]:
    """Lines of code blocks, fenced or indented by four, joined at a backslash; no TOML."""
    fence: str | None = None
    started = ""
    before = ""
    for line in text.splitlines():
        if line.startswith("```"):
            fence = line[3:] if fence is None else None
            continue
        indented = fence is None and line.startswith("    ") and not before.startswith(("-", "|"))
        before = line if line.strip() and not line.startswith("    ") else before
        if not indented and fence not in ("", "sh", "bash"):
            continue
        started += line.strip().removesuffix("\\")
        if not line.endswith("\\"):
            yield started
            started = ""


def words_of(line: str) -> list[str]:
    """A command's words without comment, redirection and what it is piped into."""
    words = shlex.split(line, comments=True)
    ends = [i for i, word in enumerate(words) if word in (">", "|", "2>", "&&")]
    return words[: ends[0]] if ends else words


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The subcommand that words after ``relabel`` name, and the words that are left.

    Raises:
        click.UsageError: there is none of the name.
    """
    command: click.Command = cli
    words = list(words)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        context = click.Context(command)
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"there is no command {words[0]!r}")
        command, words = found, words[1:]
    return command, words


def check_call(words: list[str]) -> None:
    """Parse a whole call without running it: options, their number of values, choices, --set.

    Raises:
        click.ClickException: something in it does not exist or is missing.
    """
    command, rest = find_command(words)
    context = click.Context(command, info_name=command.name)
    values, left, _ = command.make_parser(context).parse_args(args=list(rest))
    if left:
        raise click.UsageError(f"{left} is left over")
    if "--help" in rest or "--version" in rest:
        return
    for parameter in command.get_params(context):
        value = values.get(parameter.name or "")
        if parameter.required and not value:
            raise click.UsageError(f"{parameter.name} is missing")
        kind: Any = parameter.type
        if isinstance(kind, Assignment):
            for text in value or ():
                check_setting(text, kind.sections)
        elif isinstance(value, str) and not isinstance(kind, click.Path):
            kind.convert(value, parameter, context)


def check_setting(text: str, sections: Iterable[str] = tuple(SECTIONS)) -> None:
    """Check ``section.key=value``.

    Raises:
        click.UsageError: no such section or key, or a value that does not fit.
    """
    name, _, value = text.partition("=")
    section, _, key = name.partition(".")
    if section not in sections:
        raise click.UsageError(f"there is no section {section!r}")
    _, wrong = fit_values(SECTIONS[section].cls, {key: value}, text=True)
    if wrong:
        raise click.UsageError("; ".join(wrong))


def options_of(command: click.Command) -> set[str]:
    context = click.Context(command)
    found = {name for p in command.get_params(context) for name in (*p.opts, *p.secondary_opts)}
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found |= options_of(child)
    return found


@cache
def all_options() -> set[str]:
    return options_of(cli) | FOREIGN


def named_options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w-])", text))


@pages
def test_commands_of_code_blocks_parse(page: Path) -> None:
    if page in MEASURED:
        pytest.skip("commands of the day they were measured")
    for line in code_lines(page.read_text(encoding="utf-8")):
        if not re.match(r"(relabel|torchrun|make|python) ", line):
            continue
        words = words_of(line)
        if words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), line
        elif words[0] == "python":
            assert words[1] == "-c" or (ROOT / words[1]).is_file(), line
        else:
            words = words[words.index("relabel") + 1 :]
            try:
                check_call(words)
            except click.ClickException as error:
                pytest.fail(f"{line!r}: {error.format_message()}")


@pages
def test_code_spans_name_what_exists(page: Path) -> None:
    if page in MEASURED:
        pytest.skip("options of the day they were measured")
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for span in re.findall(r"`([^`\n]+)`", text):
        if span.startswith("relabel ") and re.match(r"[a-z][a-z-]*$", span.split()[1]):
            words = [w for w in span.split()[1:] if w != "..."]
            command, _ = find_command([w for w in words if re.match(r"[a-z-]+$", w)])
            unknown = named_options(span) - options_of(command) - {"--help"}
            assert not unknown, f"`{span}`"
        elif span.startswith("--"):
            assert named_options(span) <= all_options(), f"`{span}`"
        elif re.match(r"(relabel|commands|tests|benchmarks|schemas|docs)/[\w./-]*$", span):
            assert (ROOT / span).exists(), f"`{span}`"
        for setting in re.findall(r"--set (\S+=\S+)", span):
            if not setting.lower().startswith("section."):
                check_setting(setting)
        section, _, key = span.partition(".")
        if section in SECTIONS and re.fullmatch(r"[a-z_]+", key) and key not in FILE_TYPES:
            assert key in SECTIONS[section].fields, f"`{span}`"


@pages
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.M)
            known = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in known, f"{page.name} links to {target}"


def test_readme_is_short_and_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "    make demo" in text and "    make test" in text


def test_pictures_are_small() -> None:
    pictures = [p for p in (ROOT / "docs/images").iterdir() if p.suffix in (".jpg", ".png")]
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size <= 200_000, picture.name
        listed = (ROOT / "docs/images/README.md").read_text(encoding="utf-8")
        assert f"`{picture.name}`" in listed, "how was it made?"


def test_messages_in_troubleshooting_are_ours() -> None:
    """What stands in its tables as a message is in the code, but for values and ``...``."""
    texts = []
    for file in [*(ROOT / "relabel").rglob("*.py"), *(ROOT / "commands").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    code = "\n".join(texts)
    for line in (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("| `"):
            continue
        for span in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
            for part in re.split(r"\.\.\.|'[^']*'|\d+|\bnan\b", span):
                assert part.strip() in code, f"{span!r}: {part!r}"


def test_a_wrong_call_is_found() -> None:
    for line in (
        "align --target a",
        "align --target a --sources b --no-such-option",
        "no-such-command",
        "train-specialist a --set specialist.no_such_key=1",
        "train-specialist a --set specialist.lr=fast",
        "train-specialist a b",
        "train-specialist a --set lat.epochs=3",
        "train-classifier --images a --loss no-such-loss",
    ):
        with pytest.raises(click.ClickException):
            check_call(str(line).split())
    check_call(["align", "--target", "a", "--sources", "b", "--set", "lat.folds=2"])
