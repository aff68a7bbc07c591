"""Settings: frozen dataclasses, one per stage: the command line, the manifest and the docs at once.

Modules that define settings import neither torch nor transformers, so that ``--help`` stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from relabel.errors import ConfigError, did_you_mean

T = TypeVar("T")


def setting(default: Any, help: str, *, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field with its help text; the command line is generated from it."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Runtime:
    """How to run, without influence on what is computed (never part of a fingerprint)."""

    device: str = setting("auto", "Device: auto, cpu, cuda, cuda:1, mps.")
    workers: int = setting(-1, "Processes that decode images; -1 chooses from the cores.")
    skip_bad: bool = setting(False, "Go on past bad records and list them at the end.")
    quiet: bool = setting(False, "Print no progress.")


def settings_from(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Build a settings dataclass from a table of relabel.toml or the command line.

    Raises:
        ConfigError: an unknown key, with near matches, or a value of the wrong type.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    types = get_type_hints(cls)
    clean = {}
    for given, value in values.items():
        key = given.replace("-", "_")
        if key not in known:
            raise ConfigError(
                f"unknown setting {given!r} in {where}", remedy=did_you_mean(key, known)
            )
        clean[key] = _fit(value, types[key])
        if clean[key] is _MISFIT:
            raise ConfigError(
                f"setting {given!r} in {where} must be {describe_type(types[key])}, not {value!r}"
            )
        choices = known[key].metadata.get("choices")
        if choices and clean[key] is not None and clean[key] not in choices:
            raise ConfigError(
                f"setting {given!r} in {where} cannot be {value!r}",
                remedy=did_you_mean(str(value), choices),
            )
    return cls(**clean)


_MISFIT = object()
_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def inner_type(hint: Any) -> tuple[Any, bool, bool]:
    """(scalar type, whether it is a tuple of them, whether it may be None) of a field's type.

    A choice of several scalars, such as ``int | str``, counts as text.
    """
    plain, optional = _options(hint)
    if len(plain) != 1:
        return str, False, optional
    if get_origin(plain[0]) is tuple:
        return get_args(plain[0])[0], True, optional
    return plain[0], False, optional


def _options(hint: Any) -> tuple[list[Any], bool]:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    plain = [o for o in options if o is not type(None)]
    return plain, len(plain) < len(options)


def describe_type(hint: Any) -> str:
    """A type in words, for messages: ``a whole number or a text``."""
    words = []
    for option in _options(hint)[0]:
        many = get_origin(option) is tuple
        scalar = get_args(option)[0] if many else option
        name = _TYPE_NAMES.get(scalar, str(scalar))
        words.append(f"a list of which each is {name}" if many else name)
    return " or ".join(words)


def _fit(value: Any, hint: Any) -> Any:
    """``value`` as the field's type wants it, or ``_MISFIT``; whole numbers pass as numbers."""
    plain, optional = _options(hint)
    if value is None:
        return None if optional else _MISFIT
    for option in plain:
        fitted = _fit_one(value, option)
        if fitted is not _MISFIT:
            return fitted
    return _MISFIT


def _fit_one(value: Any, option: Any) -> Any:
    if get_origin(option) is tuple:
        if not isinstance(value, list | tuple):
            return _MISFIT
        fitted = tuple(_fit(v, get_args(option)[0]) for v in value)
        return _MISFIT if any(v is _MISFIT for v in fitted) else fitted
    if option is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if option not in _TYPE_NAMES:
        return value
    fits = isinstance(value, option) and (option is bool or not isinstance(value, bool))
    return value if fits else _MISFIT


def settings_dict(settings: Any) -> dict[str, Any]:
    """JSON-ready dict of a settings dataclass, in field order.

    A whole number in a field of numbers becomes ``12.0``, as it is when read from relabel.toml, so
    that the same settings have the same fingerprint.
    """
    types = get_type_hints(type(settings))
    values = {}
    for name, value in asdict(settings).items():
        fitted = _fit(value, types[name])
        value = value if fitted is _MISFIT else fitted
        values[name] = list(value) if isinstance(value, tuple) else value
    return values


def with_preset(settings: T, preset: Mapping[str, Any]) -> T:
    """The settings with a preset's values where they still have their defaults."""
    defaults = {f.name: f.default for f in fields(settings)}  # type: ignore[arg-type]
    changes = {k: v for k, v in preset.items() if getattr(settings, k) == defaults[k]}
    return replace(settings, **changes) if changes else settings  # type: ignore[type-var]
