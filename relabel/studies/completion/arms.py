"""The rows of the comparison: a method, and which settings it changes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from relabel.errors import ConfigError, did_you_mean
from relabel.partial.settings import CompletionSettings
from relabel.settings import choices_of, field_types, fit_values

_NAME = r"\w[\w.-]*"
REFIT = "+refit"
"""Behind the name of an arm: the same with each category's classifier refitted."""


@dataclass(frozen=True)
class CompletionArm:
    """One training per proportion and seed, which gives two rows: as trained, and refitted.

    Attributes:
        name: what the table calls it.
        changes: `CompletionSettings` by field name, the method among them.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, base: CompletionSettings, seed: int) -> CompletionSettings:
        """The arm's settings over those that all arms share."""
        return replace(base, **{**self.changes, "seed": seed})


def known_methods() -> tuple[str, ...]:
    """Names of all methods."""
    return choices_of(field_types(CompletionSettings)["method"])


def resolve_arms(
    names: Iterable[str], tables: Mapping[str, Mapping[str, Any]]
) -> tuple[CompletionArm, ...]:
    """Arms by name, in the order given, none twice.

    Args:
        names: of methods, and of arms that ``tables`` describe.
        tables: settings of further arms by name, such as ``{"hst-no-ist": {"method": "hst",
            "without": ["ist"]}}``.

    Raises:
        ConfigError: an unknown name, or settings that do not fit.
    """
    arms = []
    for name in dict.fromkeys(names):
        if name in tables:
            if re.fullmatch(_NAME, name) is None:
                raise ConfigError(
                    f"an arm cannot be called {name!r}, which names a folder and a row",
                    record="[protocol.arms]",
                    remedy="Take letters, digits, '_', '.' and '-' after a letter or digit.",
                )
            fitted, wrong = fit_values(CompletionSettings, tables[name])
            if wrong or "seed" in fitted:
                what = "; ".join(wrong) or "the seed is the protocol's, not an arm's"
                raise ConfigError(what, record=f"[protocol.arms.{name}]")
            arms.append(CompletionArm(name, {"method": name, **fitted}))
            # A table that names no method has the method's name itself.
            if "method" not in fitted and name not in known_methods():
                raise ConfigError(
                    "names no method",
                    record=f"[protocol.arms.{name}]",
                    remedy=f"Add method = {known_methods()[0]!r} or another.",
                )
        elif name in known_methods():
            arms.append(CompletionArm(name, {"method": name}))
        else:
            raise ConfigError(
                f"there is no method {name!r}",
                remedy=did_you_mean(name, [*known_methods(), *tables]),
            )
    return tuple(arms)
