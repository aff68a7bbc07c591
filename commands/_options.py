"""Settings on the command line, and the options that many commands share.

A command names its sections and the few settings that get an option of their own; every other
setting is ``--set SECTION.KEY=VALUE``. Options win over relabel.toml, and that over defaults.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from relabel.cli import CONFIG, DEBUG, State
from relabel.errors import ConfigError, did_you_mean, near_matches
from relabel.files.remote import is_url
from relabel.settings import (
    base_type,
    choices_of,
    describe_type,
    field_types,
    fit_values,
    show_value,
)
from relabel.workspace.engine import require_engine

from ._sections import NETWORKS, SECTIONS, RuntimeTable, shown_default

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
Decorator = Callable[[Any], Any]


class _Local(click.Path):
    """A path of this machine."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if is_url(value):
            self.fail(f"{value!r} is a URL, and a path is needed here.", param, ctx)
        return super().convert(value, param, ctx)


class _FolderOrUrl(click.Path):
    """A folder as a Path, or a URL as it was typed."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if is_url(value) else super().convert(value, param, ctx)


class _Output(click.Path):
    """A path, or a URL as the path that stands for it until the command ends."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not is_url(value):
            return super().convert(value, param, ctx)
        from relabel.workspace.mirror import Mirror

        if ctx is None or ctx.resilient_parsing:
            return None
        return ctx.with_resource(Mirror(value, file=not self.dir_okay))


FOLDER = _Local(file_okay=False, path_type=Path)
FILE = _Local(path_type=Path)
FOLDER_OR_URL = _FolderOrUrl(file_okay=False, path_type=Path)
DRY_RUN_HELP = (
    "Do a part of the work for a minute, say how many images, shards, hours and bytes it takes, "
    "and stop."
)
OUT_FOLDER = _Output(file_okay=False, path_type=Path)
OUT_FILE = _Output(dir_okay=False, path_type=Path)
_TYPED = "relabel.typed"
_METAVARS = {int: "N", float: "X", str: "NAME", tuple: "X,X"}
_RESERVED = ("specialist", "probe")


class GroupedOption(click.Option):
    """An option that `--help` lists under a heading."""

    def __init__(self, *args: Any, heading: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


class GroupedCommand(click.Command):
    """A command whose help shows options under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and (record[1] or isinstance(param, click.Option)):
                groups.setdefault(getattr(param, "heading", "Options"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class SettingType(click.ParamType):
    """A value of one setting, with its range or choices."""

    def __init__(self, key: str) -> None:
        section, _, self.field = key.partition(".")
        self.cls = SECTIONS[section].cls
        self.hint = field_types(self.cls)[self.field]
        choices = choices_of(self.hint)
        one_of = choices and base_type(self.hint) is str and len(choices) < 4
        self.name = f"[{'|'.join(choices)}]" if one_of else _METAVARS[base_type(self.hint)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        fitted, wrong = fit_values(self.cls, {self.field: value}, text=True)
        if wrong:
            near = near_matches(value, choices_of(self.hint))
            self.fail(f"{value!r} is not {describe_type(self.hint)}{near}.", param, ctx)
        return fitted[self.field]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(c) for c in choices_of(self.hint) if c.startswith(incomplete)]


class Assignment(click.ParamType):
    """``SECTION.KEY=VALUE``; the shell completes keys."""

    name = "SECTION.KEY=VALUE"

    def __init__(self, sections: Sequence[str]) -> None:
        self.sections = sections

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        keys = (f"{s}.{name}=" for s in self.sections for name in SECTIONS[s].fields)
        return [CompletionItem(key) for key in keys if key.startswith(incomplete)]


class Given:
    """What relabel.toml and the command line say, for one command.

    Args:
        typed: settings of options, by ``section.key``.
        assignments: texts of ``--set``; they win over options.

    Attributes:
        catalogue: the datasets.
        runtime: how to run.

    Raises:
        ConfigError: relabel.toml has settings that are unknown or do not fit: all are named.
        UsageError: the command line has.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        sections: Sequence[str] = tuple(SECTIONS),
        typed: Mapping[str, Any] | None = None,
        assignments: Iterable[str] = (),
    ) -> None:
        self.catalogue = catalogue
        self._file = _read_tables(catalogue, sections)
        self._typed = _assignments(assignments, sections)
        for key, value in (typed or {}).items():
            section, _, field = key.partition(".")
            self._typed.setdefault(section, {}).setdefault(field, value)
        for tables, folder in ((self._file, catalogue.folder), (self._typed, Path.cwd())):
            for key, what in NETWORKS.items():
                section, _, field = key.partition(".")
                table = tables.get(section, {})
                if table.get(field) and table[field] not in _RESERVED:
                    table[field] = resolve_network(table[field], folder, what=what, option=key)
        self.runtime = self.of(RuntimeTable, "runtime")

    def of(
        self,
        cls: type[T],
        section: str,
        *,
        under: Mapping[str, Any] | None = None,
        over: Mapping[str, Any] | None = None,
    ) -> T:
        """The settings of a section.

        Args:
            under: values that relabel.toml wins over, such as a preset's.
            over: values that win over relabel.toml, not over the command line.

        Raises:
            ConfigError: values that do not fit each other.
        """
        values = {**(under or {}), **self._file.get(section, {})}
        if section != "runtime" and self.runtime.seed is not None and "seed" in field_types(cls):
            values["seed"] = self.runtime.seed
        values |= {**(over or {}), **self._typed.get(section, {})}
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(error.message, record=f"[{section}]", remedy=error.remedy) from None

    def typed(self, section: str) -> set[str]:
        """The settings of a section that the command line has."""
        return set(self._typed.get(section, {}))

    def table(self, section: str) -> dict[str, Any]:
        """What relabel.toml says of a section."""
        return dict(self._file.get(section, {}))


def settings_options(
    sections: Sequence[str],
    shown: Mapping[str, Sequence[tuple[str, ...]]] | None = None,
    *,
    engine: bool = False,
) -> Callable[[F], F]:
    """A decorator adding the settings of a command, which it gets as ``given``: a `Given`.

    Adds ``--set``, the settings of `shown`, and how to run: device, workers, seed, data, config.

    Args:
        sections: the sections the command reads; [runtime] is always among them.
        shown: by heading, options as ``(flag, key)`` or ``(flag, key, help)``, such as
            ``("--lr", "specialist.lr")``; several keys have a space between them.
        engine: its shards can be made on a cluster: adds ``--engine``.
    """
    sections = (*sections, "runtime")
    keys = [key for group in (shown or {}).values() for _, key, *_ in group]
    decorators = [
        _setting_option(heading, *option)
        for heading, options in (shown or {}).items()
        for option in options
    ]
    running = (*_RUNNING, _ENGINE) if engine else _RUNNING
    decorators += [_setting_option("Running", *option) for option in running]
    decorators.append(
        _grouped(
            "--set",
            type=Assignment(sections),
            multiple=True,
            heading="Running",
            help=f"Any other setting, such as {_example(sections, keys)}; may be repeated. "
            "`relabel settings` lists them.",
            expose_value=False,
            callback=_remember("--set"),
        )
    )
    decorators += _config_decorators("Running")

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            ctx = click.get_current_context()
            typed = dict(ctx.meta.get(_TYPED, {}))
            assignments = typed.pop("--set", ())
            given = Given(_catalogue(ctx, typed.pop("--data", ())), sections, typed, assignments)
            if engine:
                require_engine(given.runtime)
            return function(*args, given=given, **kwargs)

        for decorator in reversed(decorators):
            run = decorator(run)
        return run  # type: ignore[return-value]

    return decorate


def catalogue_options(function: F) -> F:
    """``--data``, ``--config`` and ``--debug``; the command gets a `Catalogue` as ``catalogue``."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        ctx = click.get_current_context()
        data = ctx.meta.get(_TYPED, {}).get("--data", ())
        return function(*args, catalogue=_catalogue(ctx, data), **kwargs)

    for decorator in reversed(_config_decorators("Options")):
        run = decorator(run)
    return run  # type: ignore[return-value]


def resolve_network(name: str, folder: Path, *, what: str, option: str) -> str:
    """A local folder's absolute path, with ``name`` relative to ``folder``; else the name itself.

    Args:
        what, option: for the error: what is looked for, and where it was given.

    Raises:
        ConfigError: it looks like a path, and no folder is there.
    """
    path = folder / Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if name.startswith(("/", ".", "~")):
        raise ConfigError(f"no such {what} folder", file=path, remedy=f"Check {option}.")
    return name


def comma_list(value: Iterable[str]) -> list[str]:
    """Names given as ``a,b`` or by repeating the option, in order, without repeats."""
    names = [name.strip() for text in value for name in text.split(",")]
    return list(dict.fromkeys(name for name in names if name))


_ENGINE = ("--engine", "runtime.engine", "local, or ray: shards by actors on a cluster. [local]")
_RUNNING = (
    ("--device", "runtime.device", "auto, cpu, cuda, cuda:1, mps. [auto]"),
    ("--workers", "runtime.workers", "Threads that read images. [one per core]"),
    ("--seed", "runtime.seed", "Seed of everything random. [0]"),
    ("--skip-bad", "runtime.skip_bad", "Go on past bad records, list them at the end."),
    ("--quiet", "runtime.quiet"),
)


def _catalogue(ctx: click.Context, data: Iterable[str]) -> Catalogue:
    from relabel.catalogue.catalogue import load_catalogue

    state = ctx.find_root().ensure_object(State)
    return load_catalogue(config=state.config, overrides=data)


def _read_tables(catalogue: Catalogue, sections: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The values of relabel.toml, by section."""
    tables: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for section in sections:
        tables[section], wrong = fit_values(SECTIONS[section].cls, catalogue.table(section))
        problems += [f"[{section}] {text}" for text in wrong]
    if problems:
        raise ConfigError("; ".join(problems), file=catalogue.file)
    return tables


def _assignments(texts: Iterable[str], sections: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The values of ``--set``, by section."""
    values: dict[str, dict[str, str]] = {}
    wrong: list[str] = []
    for text in texts:
        key, equals, value = text.partition("=")
        section, dot, field = (part.strip() for part in key.partition("."))
        if not equals or not dot:
            wrong.append(f"{text!r} is not SECTION.KEY=VALUE")
        elif section not in SECTIONS:
            wrong.append(f"{text!r}: no section {section!r}. {did_you_mean(section, sections)}")
        elif section not in sections:
            wrong.append(f"{text!r}: this command uses only the sections {', '.join(sections)}")
        else:
            values.setdefault(section, {})[field] = value
    found: dict[str, dict[str, Any]] = {}
    for section, given in values.items():
        found[section], misfits = fit_values(SECTIONS[section].cls, given, text=True)
        wrong += [f"[{section}] {text}" for text in misfits]
    if wrong:
        raise click.BadParameter("; ".join(wrong), param_hint="'--set'")
    return found


def _config_decorators(heading: str) -> list[Decorator]:
    return [
        _grouped(
            "--data",
            multiple=True,
            metavar="NAME=PATH[:FORMAT]",
            heading=heading,
            help="Name a dataset, or move one; may be repeated.",
            expose_value=False,
            callback=_remember("--data"),
        ),
        _grouped("-C", "--config", heading=heading, **CONFIG),
        _grouped("--debug", heading=heading, **DEBUG),
    ]


def _remember(*keys: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """A callback that keeps a value that was typed, for `Given`."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        source = ctx.get_parameter_source(str(param.name))
        if source is not None and source.name == "COMMANDLINE":
            ctx.meta.setdefault(_TYPED, {}).update(dict.fromkeys(keys, value))

    return callback


def _setting_option(heading: str, flag: str, keys: str, help: str = "") -> Decorator:
    first = keys.split()[0]
    section, _, field = first.partition(".")
    about = SECTIONS[section].fields[field]
    help = help or about.metadata["help"]
    attributes: dict[str, Any] = {"heading": heading, "expose_value": False, "default": None}
    if isinstance(about.default, bool):
        attributes |= {"is_flag": True, "help": help}
    else:
        default = "" if help.endswith("]") else f" [{shown_default(about.default)}]"
        attributes |= {"type": SettingType(first), "help": help + default}
    name = first.replace(".", "__")
    return _grouped(flag, name, callback=_remember(*keys.split()), **attributes)


def _example(sections: Iterable[str], shown: Iterable[str]) -> str:
    """An assignment of a number that has no option of its own."""
    return next(
        f"{section}.{name}={show_value(field.default)}"
        for section in sections
        for name, field in SECTIONS[section].fields.items()
        if type(field.default) in (int, float) and f"{section}.{name}" not in shown
    )


def _grouped(*names: str, **attributes: Any) -> Decorator:
    return click.option(*names, cls=GroupedOption, **attributes)
