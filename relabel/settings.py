"""Settings: frozen dataclasses, one per stage, for command line, relabel.toml, manifest and docs.

Types carry the ranges and the choices. Modules that define settings import neither torch nor
transformers, so that ``--help`` stays fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from relabel.errors import ConfigError, near_matches

T = TypeVar("T")
Share = Annotated[float, Meta(ge=0, le=1)]
NonNegative = Annotated[float, Meta(ge=0)]
AboveZero = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
# What detections are ranked by: class score p, localisation quality v, p * v, sqrt(p * v).
Ranking = Literal["score", "quality", "product", "geometric"]

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a table",
}


def setting(default: Any, help: str) -> Any:
    """A field of a settings dataclass with its help text."""
    return field(default=default, metadata={"help": help})


class Settings:
    """Base of the settings dataclasses: every value is checked against its field's type.

    A whole number in a field of numbers becomes ``12.0``, and a list a tuple, so that the same
    settings have the same fingerprint wherever they come from.

    Raises:
        ConfigError: values of the wrong type, outside their range or choices: all of them.
    """

    def __post_init__(self) -> None:
        names = field_types(type(self))
        fitted, wrong = fit_values(type(self), {name: getattr(self, name) for name in names})
        if wrong:
            raise ConfigError("; ".join(wrong))
        for name, value in fitted.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Runtime(Settings):
    """How to run, without influence on what is computed (never part of a fingerprint)."""

    device: Text = setting("auto", "Device: auto, cpu, cuda, cuda:1, mps.")
    workers: Annotated[int, Meta(ge=-1)] = setting(
        -1, "Threads that read images; -1: one per core, at most 16; 0: none beside the main one."
    )
    skip_bad: bool = setting(False, "Go on past bad records and list them at the end.")
    quiet: bool = setting(False, "Print no progress.")
    engine: Literal["local", "ray"] = setting(
        "local", "Where shards are made: local, in this process; ray, by actors on a Ray cluster."
    )
    ray_address: str = setting(
        "",
        "Ray cluster to join: auto, or the address of its head; empty: one of this machine alone.",
    )
    ray_actors: Count = setting(0, "Actors, each with the model; 0: as many as fit on the cluster.")
    ray_cpus: NonNegative = setting(
        0.0, "Cores of an actor; 0: 1, or with GPUs the GPU's share of the cluster's cores."
    )
    ray_gpus: AboveZero = setting(1.0, "GPUs of an actor, where there are any; 0.5 lets two share.")


@cache
def field_types(cls: type) -> dict[str, Any]:
    """The annotated type of every field, by name."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}


def fit_values(
    cls: type, values: Mapping[str, Any], *, text: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """``values`` as the fields' types want them, and a sentence for each that does not fit.

    Args:
        values: by field name; ``-`` counts as ``_``.
        text: the values are texts of a command line: ``0.5``, ``true``, ``0.8,1.25``.
    """
    types = field_types(cls)
    fitted: dict[str, Any] = {}
    wrong: list[str] = []
    for given, value in values.items():
        name = given.replace("-", "_")
        if name not in types:
            wrong.append(f"unknown setting {given!r}{near_matches(name, types)}")
            continue
        if text:
            value = _split(value, types[name])
        try:
            fitted[name] = msgspec.convert(value, types[name], strict=not text)
        except msgspec.ValidationError:
            wrong.append(misfit(name, value, types[name]))
        else:
            if isinstance(fitted[name], float) and not math.isfinite(fitted[name]):
                wrong.append(misfit(name, value, types[name]))
    return fitted, wrong


def settings_from(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Build a settings dataclass from a table of relabel.toml or of a checkpoint's config.

    Args:
        where: the table or file, for messages.

    Raises:
        ConfigError: unknown keys, with near matches, and values that do not fit: all of them.
    """
    fitted, wrong = fit_values(cls, values)
    if wrong:
        raise ConfigError("; ".join(wrong), record=where)
    try:
        return cls(**fitted)
    except ConfigError as error:
        raise ConfigError(error.message, record=where, remedy=error.remedy) from None


def misfit(name: str, value: Any, hint: Any) -> str:
    """What is wrong with a value that does not fit its type, in words."""
    if isinstance(value, tuple):
        value = list(value)
    near = near_matches(value, choices_of(hint)) if isinstance(value, str) else ""
    text = repr(value)
    text = text if len(text) <= 100 else f"{text[:97]}..."
    return f"{name} is {text} and must be {describe_type(hint)}{near}"


def describe_type(hint: Any) -> str:
    """A type in words: ``a number from 0 to 1``, ``a whole number of 1 or more, or auto``."""
    plain, metas = _peel(hint)
    if get_origin(plain) in (Union, UnionType):
        return ", or ".join(describe_type(o) for o in get_args(plain) if o is not type(None))
    if get_origin(plain) is Literal:
        *most, last = map(str, get_args(plain))
        return f"{', '.join(most)} or {last}" if most else last
    if get_origin(plain) is tuple:
        inner = describe_type(get_args(plain)[0])
        exact = next((f"{m.max_length} " for m in metas if m.max_length), "")
        count = exact or ("one or more " if metas else "")
        return f"a list of {count}values, each {inner}"
    return _WORDS.get(plain, str(plain)) + _span(metas)


def choices_of(hint: Any) -> tuple[str, ...]:
    """The texts that a type allows by name, or whose lists it allows; empty where any will do."""
    plain, _ = _peel(hint)
    if get_origin(plain) is Literal:
        return get_args(plain)
    if get_origin(plain) in (Union, UnionType, tuple):
        return tuple(c for option in get_args(plain) for c in choices_of(option))
    return ()


def range_of(hint: Any) -> dict[str, float]:
    """The bounds of a number or of each number of a list: ``ge``, ``gt``, ``le``, ``lt``."""
    plain, metas = _peel(hint)
    if get_origin(plain) in (Union, UnionType, tuple):
        return {k: v for option in get_args(plain) for k, v in range_of(option).items()}
    bounds = {k: getattr(m, k) for m in metas for k in ("ge", "gt", "le", "lt")}
    return {k: v for k, v in bounds.items() if v is not None}


def base_type(hint: Any) -> Any:
    """``bool``, ``int``, ``float``, ``str`` or ``tuple``; ``str`` where several are allowed."""
    plain, _ = _peel(hint)
    if get_origin(plain) is tuple:
        return tuple
    options = [o for o in get_args(plain) if o is not type(None)]
    if get_origin(plain) in (Union, UnionType) and len(options) == 1:
        return base_type(options[0])
    return plain if plain in _WORDS else str


def show_value(value: Any) -> str:
    """A setting's value as it is typed behind ``--set``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return ",".join(map(show_value, value))
    return str(value)


def settings_dict(settings: Any) -> dict[str, Any]:
    """JSON-ready dict of a settings dataclass, in field order."""
    values = {f.name: getattr(settings, f.name) for f in fields(settings)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def with_preset(settings: T, preset: Mapping[str, Any]) -> T:
    """The settings with a preset's values where they still have their defaults."""
    defaults = {f.name: f.default for f in fields(settings)}  # type: ignore[arg-type]
    changes = {k: v for k, v in preset.items() if getattr(settings, k) == defaults[k]}
    return replace(settings, **changes) if changes else settings  # type: ignore[type-var]


def _peel(hint: Any) -> tuple[Any, list[Meta]]:
    """A type without its annotations, and the annotations."""
    if get_origin(hint) is Annotated:
        plain, *metas = get_args(hint)
        return plain, [m for m in metas if isinstance(m, Meta)]
    return hint, []


def _span(metas: Iterable[Meta]) -> str:
    low = [f"{m.ge:g}" for m in metas if m.ge is not None]
    above = [f"{m.gt:g}" for m in metas if m.gt is not None]
    high = [f"{m.le:g}" for m in metas if m.le is not None]
    below = [f"{m.lt:g}" for m in metas if m.lt is not None]
    upper = f" to {high[0]}" if high else f" to below {below[0]}" if below else ""
    if low:
        return f" from {low[0]}{upper}" if upper else f" of {low[0]} or more"
    if above:
        return f" above {above[0]}" + upper.replace(" to ", ", up to ", 1)
    return upper.replace(" to ", " up to ", 1)


def _split(text: Any, hint: Any) -> Any:
    """A text of the command line: for a list, its parts; quotes of TOML are taken off."""
    text = str(text).strip()
    if base_type(hint) is tuple:
        parts = text.removeprefix("[").removesuffix("]").split(",")
        return tuple(_unquote(p.strip()) for p in parts if p.strip())
    return _unquote(text)


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
