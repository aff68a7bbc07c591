"""Settings: frozen dataclasses, one per stage, that are the command line, the manifest and the docs.

Modules that define settings import neither torch nor transformers, so that ``--help`` stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from relabel.datasets.labelspace import did_you_mean
from relabel.errors import ConfigError

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
    """Build a settings dataclass from a table of relabel.toml.

    Raises:
        ConfigError: an unknown key, with near matches.
    """
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    clean = {key.replace("-", "_"): value for key, value in values.items()}
    for key in clean:
        if key not in known:
            raise ConfigError(f"unknown setting {key!r} in {where}", remedy=did_you_mean(key, known))
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in clean.items()})


def settings_dict(settings: Any) -> dict[str, Any]:
    """JSON-ready dict of a settings dataclass, in field order."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
