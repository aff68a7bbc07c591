"""Command-line options made from settings dataclasses, and the options that many commands share.

An option left out is None; then the value of relabel.toml counts, and then the field's default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import click

from relabel.cli import State, set_config, set_debug
from relabel.detectors.sam3.settings import Sam3Settings
from relabel.errors import ConfigError, Problems
from relabel.settings import Runtime, inner_type, settings_from
from relabel.workspace.progress import message

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
# Set by options of their own, for all stages at once.
SHARED_FIELDS = ("seed", "backbone")


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


class NumberList(click.ParamType):
    """Values with commas between them, such as ``0.8,1.25``."""

    def __init__(self, scalar: click.ParamType) -> None:
        self.scalar = scalar
        self.name = f"{scalar.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple | list):
            return tuple(value)
        return tuple(self.scalar.convert(v.strip(), param, ctx) for v in value.split(",") if v)


def settings_options(
    cls: type, prefix: str = "", *, heading: str, leave_out: Iterable[str] = SHARED_FIELDS
) -> Callable[[F], F]:
    """A decorator adding one option per field of a settings dataclass.

    With the prefix ``specialist`` the field ``image_size`` becomes ``--specialist-image-size``
    and arrives as ``specialist_image_size``; gather the values with `settings_of`.
    """
    types = get_type_hints(cls)
    options = [
        _option(field, types[field.name], prefix, heading)
        for field in fields(cls)
        if field.name not in leave_out
    ]

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def settings_of(
    cls: type[T],
    params: Mapping[str, Any],
    prefix: str = "",
    *,
    table: Mapping[str, Any] | None = None,
    where: str = "the command line",
    **shared: Any,
) -> T:
    """The settings: defaults, under a table of relabel.toml, under options that were given.

    Args:
        params: the command's parameters by name; None where an option was left out.
        shared: values for fields such as ``seed`` and ``backbone``; None leaves them alone.

    Raises:
        ConfigError: an unknown key in the table, or a value of the wrong type.
    """
    values = {key.replace("-", "_"): value for key, value in (table or {}).items()}
    for field in fields(cls):  # type: ignore[arg-type]
        given = params.get(f"{prefix}_{field.name}" if prefix else field.name)
        if field.name in shared:
            given = shared[field.name]
        if given is not None:
            values[field.name] = given
    return settings_from(cls, values, where=where)


def runtime_options(function: F) -> F:
    """Options of how to run: device, workers, seed, quiet, skip-bad, data, config, debug."""
    types = get_type_hints(Runtime)
    heading = "Running"
    decorators = [
        *(_option(f, types[f.name], "", heading) for f in fields(Runtime)),
        _grouped("--seed", type=int, heading=heading, help="Seed of everything random. [0]"),
        *_config_decorators(heading),
    ]
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def config_options(function: F) -> F:
    """Options of commands that only look up datasets: data, config, debug."""
    for decorator in reversed(_config_decorators("Running")):
        function = decorator(function)
    return function


def backbone_option(function: F) -> F:
    """``--backbone`` of the specialists; LAT takes theirs unless ``--lat-backbone`` says else."""
    return _grouped(
        "--backbone",
        metavar="NAME",
        heading="Options",
        help="Backbone of the specialists: transformers hub id, local folder or torchvision name.",
    )(function)


def runtime_of(params: Mapping[str, Any], table: Mapping[str, Any] | None = None) -> Runtime:
    """The `Runtime` from the options, over the table [runtime] of relabel.toml."""
    values = {k: v for k, v in (table or {}).items() if k != "seed"}
    return settings_of(Runtime, params, table=values, where="[runtime]")


def seed_of(params: Mapping[str, Any], table: Mapping[str, Any] | None = None) -> int | None:
    """``--seed``, else ``seed`` of [runtime], else None."""
    seed = params.get("seed")
    if seed is None:
        seed = (table or {}).get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise ConfigError(f"seed in [runtime] must be a whole number, not {seed!r}")
    return seed


def catalogue_of(params: Mapping[str, Any]) -> Catalogue:
    """The catalogue of relabel.toml, with --config and --data."""
    from relabel.catalogue.catalogue import load_catalogue

    state = click.get_current_context().find_root().ensure_object(State)
    return load_catalogue(config=state.config, overrides=params.get("data") or ())


def shared_settings(catalogue: Catalogue, params: Mapping[str, Any]) -> dict[str, Any]:
    """``seed`` and ``backbone`` for all stages: options, over [runtime] and [align]; else None.

    Raises:
        ConfigError: a value of the wrong type, or a backbone folder that is not there.
    """
    shared: dict[str, Any] = {"seed": seed_of(params, catalogue.table("runtime"))}
    given, written = params.get("backbone"), catalogue.table("align").get("backbone")
    if given is not None:
        shared["backbone"] = resolve_backbone(given, Path.cwd())
    elif written is not None:
        if not isinstance(written, str):
            raise ConfigError("backbone in [align] must be a text", file=catalogue.file)
        shared["backbone"] = resolve_backbone(written, catalogue.folder)
    return shared


def settings_table(catalogue: Catalogue, name: str) -> dict[str, Any]:
    """A settings table of relabel.toml, without what `shared_settings` takes from it."""
    table = catalogue.table(name)
    if name == "align":
        table.pop("backbone", None)
    elif isinstance(table.get("backbone"), str):
        table["backbone"] = resolve_backbone(table["backbone"], catalogue.folder)
    if isinstance(table.get("rtdetr_model"), str):
        table["rtdetr_model"] = resolve_backbone(
            table["rtdetr_model"], catalogue.folder, what="RT-DETR", option="rtdetr_model"
        )
    return table


def resolve_backbone(
    name: str, folder: Path, *, what: str = "backbone", option: str = "--backbone"
) -> str:
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


def sam3_settings(catalogue: Catalogue, params: Mapping[str, Any]) -> Sam3Settings:
    """The settings of SAM 3: options ``--sam3-...``, over [sam3], over defaults.

    A local model is relative to the working folder, in relabel.toml to the file.
    """
    table = catalogue.table("sam3")
    known = {"what": "SAM 3 model", "option": "its path"}
    if isinstance(table.get("model"), str):
        table["model"] = resolve_backbone(table["model"], catalogue.folder, **known)
    given = params.get("sam3_model")
    if given is not None:
        params = {**params, "sam3_model": resolve_backbone(given, Path.cwd(), **known)}
    return settings_of(Sam3Settings, params, "sam3", table=table, where="[sam3]")


def tell_problems(problems: Problems, quiet: bool = False) -> None:
    """List on stderr what was skipped (also when quiet), and the counted warnings."""
    for problem in problems.errors:
        where = ", ".join(p for p in (problem.file, problem.record) if p)
        message(f"skipped: {where}: {problem.message}")
    for text in problems.summary():
        message(f"warning: {text}", quiet=quiet)


def comma_list(value: Iterable[str]) -> list[str]:
    """Names given as ``a,b`` or by repeating the option, in order, without repeats."""
    names = [name.strip() for text in value for name in text.split(",")]
    return list(dict.fromkeys(name for name in names if name))


def _config_decorators(heading: str) -> list[Callable[[Any], Any]]:
    return [
        _grouped(
            "--data",
            multiple=True,
            metavar="NAME=PATH[:FORMAT]",
            heading=heading,
            help="Name a dataset, or move one of relabel.toml; may be repeated.",
        ),
        _grouped(
            "-C",
            "--config",
            type=click.Path(dir_okay=False),
            expose_value=False,
            callback=set_config,
            heading=heading,
            help="The relabel.toml to use.",
        ),
        _grouped(
            "--debug",
            is_flag=True,
            expose_value=False,
            callback=set_debug,
            heading=heading,
            help="Show the traceback of an error.",
        ),
    ]


def _grouped(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    return click.option(*names, cls=GroupedOption, **attributes)


def _option(field: Field[Any], hint: Any, prefix: str, heading: str) -> Callable[[Any], Any]:
    scalar, many, _ = inner_type(hint)
    default = field.default if field.default is not MISSING else None
    flag = (f"{prefix}-" if prefix else "") + field.name.replace("_", "-")
    name = f"{prefix}_{field.name}" if prefix else field.name
    help = f"{field.metadata.get('help', '')} [{_shown(default)}]".strip()
    if scalar is bool:
        # Off by default: the plain switch is what people type; --no-x undoes relabel.toml.
        return _grouped(f"--{flag}/--no-{flag}", name, default=None, heading=heading, help=help)
    kind: click.ParamType = {int: click.INT, float: click.FLOAT}.get(scalar, click.STRING)
    choices = field.metadata.get("choices")
    if choices and scalar is str:
        kind = click.Choice(choices)
    if many:
        kind = NumberList(kind)
    return _grouped(
        f"--{flag}", name, type=kind, default=None, heading=heading, help=re.sub(r"\s+", " ", help)
    )


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "none"
    return "none" if default in (None, "") else str(default)
