"""Protocols of completion: a relabel.toml whose table [protocol] says what is compared.

[protocol]
title = "Completion"
datasets = ["voc100", "roadside"]            # each by itself
methods = ["hst", "bce", "sr"]               # default: all that the backbone allows
proportions = [0.1, 0.5, 0.9]                # shares that stay known; default 0.1 to 0.9
seeds = [0, 1, 2]
reference = "hst"                            # what others are compared with

[protocol.arms.hst-without-ist]              # further rows: settings over those of [complete]
method = "hst"
without = ["ist"]

[protocol.settings.streets]                  # settings over those of [complete] for one dataset
epochs = 3

The settings of all arms are those of [complete].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from relabel.errors import ConfigError
from relabel.partial.settings import CompletionSettings
from relabel.settings import Count, Settings, Text, fit_values, misfit, settings_from
from relabel.studies.completion.arms import CompletionArm, known_methods, resolve_arms

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue

TABLE = "protocol"
NEEDS_CLIP = ("clip-prompt",)
"""Methods whose backbone is a CLIP checkpoint, and which are compared where they are asked for."""

_Names = Annotated[tuple[Text, ...], Meta(min_length=1)]
Proportion = Annotated[float, Meta(gt=0, le=1)]


@dataclass(frozen=True)
class CompletionProtocol(Settings):
    """What is compared.

    Attributes:
        datasets: names of the catalogue, each compared by itself.
        title: for tables and plots.
        methods: of `relabel.partial.settings.Method`, and names of ``arms``.
        proportions: shares of the labels that stay known.
        seeds: of what is hidden, and of the trainings.
        reference: the arm that the others are compared with.
        arms: settings of further arms by name.
        settings: those of all arms on a dataset, by its name.
    """

    datasets: tuple[Text, ...] = ()
    title: str = "Completion"
    methods: _Names = tuple(name for name in known_methods() if name not in NEEDS_CLIP)
    proportions: Annotated[tuple[Proportion, ...], Meta(min_length=1)] = tuple(
        k / 10 for k in range(1, 10)
    )
    seeds: Annotated[tuple[Count, ...], Meta(min_length=1)] = (0, 1, 2)
    reference: Text = "hst"
    arms: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    def changes(self, dataset: str) -> dict[str, Any]:
        """What of `CompletionSettings` a dataset has of its own.

        Raises:
            ConfigError: settings that do not fit, or that are an arm's.
        """
        table = _table("settings", dataset, self.settings.get(dataset, {}))
        fitted, wrong = fit_values(CompletionSettings, table)
        wrong += [
            f"{key} is an arm's or the protocol's" for key in ("method", "seed") if key in fitted
        ]
        if wrong:
            raise ConfigError("; ".join(wrong), record=f"[{TABLE}.settings.{dataset}]")
        return fitted

    def rows(self) -> tuple[CompletionArm, ...]:
        """The arms; those of ``arms`` that ``methods`` does not name come last.

        Raises:
            ConfigError: an unknown method, or settings that do not fit.
        """
        tables = {name: _table("arms", name, table) for name, table in self.arms.items()}
        return resolve_arms([*self.methods, *tables], tables)


def _table(kind: str, name: str, value: Any) -> dict[str, Any]:
    try:
        return msgspec.convert(value, dict[str, Any])
    except msgspec.ValidationError:
        raise ConfigError(misfit(name, value, dict), record=f"[{TABLE}.{kind}]") from None


def read_completion_protocol(
    catalogue: Catalogue,
    *,
    datasets: Sequence[str] = (),
    methods: Sequence[str] = (),
    proportions: Sequence[float] = (),
    seeds: Sequence[int] = (),
) -> CompletionProtocol:
    """The protocol of a relabel.toml, with what is given in its place.

    Args:
        datasets, methods, proportions, seeds: of the command line; none of them leaves the
            protocol's. Methods that are named leave out the protocol's further arms, unless named.

    Raises:
        ConfigError: a key nobody reads, a value of the wrong type, no dataset, an unknown method.
    """
    table = catalogue.table(TABLE)
    arms = table.get("arms", {})
    if methods and isinstance(arms, dict):
        table["arms"] = {name: one for name, one in arms.items() if name in methods}
    given = {
        "datasets": list(datasets),
        "methods": list(methods),
        "proportions": list(proportions),
        "seeds": list(seeds),
    }
    try:
        written = settings_from(
            CompletionProtocol,
            {**table, **{key: value for key, value in given.items() if value}},
            where=f"[{TABLE}]",
        )
        if not written.datasets:
            raise ConfigError(
                "no dataset is named",
                remedy=f"Give --dataset NAME, or `datasets` in a table [{TABLE}].",
            )
        written.rows()
        for name in written.settings:
            written.changes(name)
    except ConfigError as error:
        raise ConfigError(
            error.message,
            file=error.file or (catalogue.file if table else None),
            record=error.record,
            remedy=error.remedy,
        ) from None
    return replace(
        written,
        **{
            key: tuple(dict.fromkeys(getattr(written, key)))
            for key in ("datasets", "methods", "proportions", "seeds")
        },
    )
