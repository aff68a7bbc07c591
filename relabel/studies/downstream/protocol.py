"""Benchmark protocols: a relabel.toml whose table [protocol] says what is compared.

[protocol]
title = "Label divergence"
targets = ["cityscapes", "nuimages"]         # each in turn
arms = ["target-only", "lat"]                # default: all
seeds = [0, 1, 2]
detectors = ["faster-rcnn", "rt-detr"]       # default: faster-rcnn

[protocol.sources]                           # default: the other targets
cityscapes = ["nuimages", "waymo"]

[protocol.schedules.standard]                # default: this one alone
factor = 1.0
[protocol.schedules.long]                    # the long training: three times the iterations
factor = 3.0
arms = ["target-only", "lat"]                # default: the protocol's

[protocol.extra.cityscapes]                  # arms from COCO files, as --extra adds them
oracle = "labels/oracle.json"                # relative to the file

[protocol.maps.cityscapes]                   # name maps of sources, as --map gives them
waymo = "maps/waymo_to_cityscapes.yaml"

[protocol.sizes.small]                       # what `with_size` changes, here for two cores
seeds = [0]
specialist = { image_size = 320 }
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.errors import ConfigError, did_you_mean
from relabel.studies.downstream.arms import ARMS, resolve_arms

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue

TABLE = "protocol"
DETECTORS = ("faster-rcnn", "rt-detr")
STANDARD = "standard"
_KEYS = (
    "title",
    "targets",
    "sources",
    "arms",
    "seeds",
    "detectors",
    "schedules",
    "extra",
    "maps",
    "sizes",
)
_SIZED_KEYS = ("targets", "arms", "seeds", "detectors", "schedules")
_SIZED_TABLES = ("specialist", "crosslabel", "lat", "align", "sam3", "detector", "downstream")


@dataclass(frozen=True)
class Schedule:
    """How long the compared detectors train.

    Attributes:
        factor: the iterations, relative to those of the settings; the same for every arm.
        arms: names of the arms that are trained this long.
    """

    factor: float
    arms: tuple[str, ...]


@dataclass(frozen=True)
class ProtocolRun:
    """One call of `relabel evaluate downstream`."""

    target: str
    sources: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    detector: str
    schedule: str
    factor: float
    extra: Mapping[str, Path]
    maps: Mapping[str, Path]

    @property
    def folder(self) -> str:
        """Where its results go, relative to the protocol's folder."""
        return f"{self.target}/{self.detector}/{self.schedule}"


@dataclass(frozen=True)
class Protocol:
    """What is compared.

    Attributes:
        title: for tables.
        targets: datasets that are the target in turn.
        sources: source datasets by target.
        arms: names of `relabel.studies.downstream.arms.ARMS`.
        seeds: of the downstream trainings.
        detectors: families that are trained downstream.
        schedules: by name; the paper's long training is one beside the standard one.
        extra: COCO files by arm name, by target.
        maps: YAML name maps by source, by target; other sources' come from names and data.
    """

    title: str
    targets: tuple[str, ...]
    sources: Mapping[str, tuple[str, ...]]
    arms: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    detectors: tuple[str, ...] = ("faster-rcnn",)
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    extra: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    maps: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)

    @property
    def long(self) -> bool:
        """True if anything is trained longer than the settings say."""
        return any(s.factor > 1 for s in self.schedules.values())

    def runs(self) -> list[ProtocolRun]:
        """All comparisons, schedule by schedule, so that the standard one is whole first."""
        return [
            ProtocolRun(
                target,
                self.sources[target],
                schedule.arms,
                self.seeds,
                detector,
                name,
                schedule.factor,
                self.extra.get(target, {}),
                self.maps.get(target, {}),
            )
            for name, schedule in self.schedules.items()
            for detector in self.detectors
            for target in self.targets
        ]


def read_protocol(catalogue: Catalogue) -> Protocol:
    """The protocol of a relabel.toml.

    Raises:
        ConfigError: no [protocol], a key nobody reads, a value of the wrong type, an unknown
            dataset or arm, a target that is its own source or has no test images.
    """
    reader = _Reader(catalogue)
    table = catalogue.table(TABLE)
    if not table:
        raise ConfigError(
            f"has no table [{TABLE}]",
            file=catalogue.file,
            remedy="Take one of benchmarks/protocols/ as a pattern.",
        )
    reader.known(table, _KEYS, f"[{TABLE}]")
    targets = reader.names(table, "targets", None)
    for target in targets:
        entry = catalogue.get(target)
        if not (entry.has("test") or entry.has("val")):
            raise reader.error(
                f"target {target!r} names no test images",
                f"Add `test`, `test_split` or `holdout` to [datasets.{target}].",
            )
    written = reader.table(table, "sources")
    reader.known(written, targets, f"[{TABLE}.sources]")
    sources = {t: reader.names(written, t, [n for n in targets if n != t]) for t in targets}
    for target, names in sources.items():
        for name in names:
            catalogue.get(name)
        if target in names:
            raise reader.error(f"target {target!r} is its own source", "Leave it out there.")
    arms = _arms(reader, table, None)
    seeds = table.get("seeds", [0, 1, 2])
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(type(s) is int and s >= 0 for s in seeds)
    ):
        raise reader.error(f"seeds are {seeds!r}", "Give whole numbers: seeds = [0, 1, 2].")
    detectors = reader.names(table, "detectors", ["faster-rcnn"])
    for name in detectors:
        if name not in DETECTORS:
            raise reader.error(f"unknown detector {name!r}", did_you_mean(name, DETECTORS))
    return Protocol(
        title=str(table.get("title") or "/".join(targets)),
        targets=targets,
        sources=sources,
        arms=arms,
        seeds=tuple(dict.fromkeys(seeds)),
        detectors=detectors,
        schedules=_schedules(reader, table, arms),
        extra=_files(reader, table, "extra", targets),
        maps=_maps(reader, table, sources),
    )


def protocol_sizes(catalogue: Catalogue) -> list[str]:
    """Names of the sizes that a protocol offers beside its own."""
    sizes = catalogue.table(TABLE).get("sizes", {})
    return list(sizes) if isinstance(sizes, dict) else []


def with_size(catalogue: Catalogue, size: str) -> Catalogue:
    """The catalogue with what ``[protocol.sizes.SIZE]`` changes in the protocol and the settings.

    Raises:
        ConfigError: no such size, or keys in it that a size cannot change.
    """
    reader = _Reader(catalogue)
    protocol = catalogue.table(TABLE)
    sizes = reader.table(protocol, "sizes")
    if size not in sizes:
        raise reader.error(f"the protocol has no size {size!r}", did_you_mean(size, sizes))
    changes = reader.table(sizes, size)
    where = f"[{TABLE}.sizes.{size}]"
    reader.known(changes, (*_SIZED_KEYS, *_SIZED_TABLES), where)
    tables = {name: catalogue.table(name) for name in catalogue.tables}
    for key in changes:
        if key in _SIZED_TABLES:
            tables[key] = {**catalogue.table(key), **reader.table(changes, key)}
        else:
            protocol[key] = changes[key]
    tables[TABLE] = {k: v for k, v in protocol.items() if k != "sizes"}
    return replace(catalogue, tables=tables)


class _Reader:
    """Typed access to the table, with errors that name the file."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.file = catalogue.file
        self.folder = catalogue.folder

    def error(self, message: str, remedy: str, record: str = f"[{TABLE}]") -> ConfigError:
        return ConfigError(message, file=self.file, record=record, remedy=remedy)

    def known(self, table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
        for key in table:
            if key not in keys:
                raise self.error(f"unknown key {key!r}", did_you_mean(key, keys), where)

    def table(self, table: Mapping[str, Any], key: str) -> dict[str, Any]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            raise self.error(f"{key} must be a table, not {value!r}", f"Write [{TABLE}.{key}].")
        return value

    def names(
        self, table: Mapping[str, Any], key: str, default: list[str] | None
    ) -> tuple[str, ...]:
        value = table.get(key, default)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise self.error(
                f"{key} must be a list of names, not {value!r}", f'Write {key} = ["...", "..."].'
            )
        return tuple(dict.fromkeys(value))


def _arms(
    reader: _Reader, table: Mapping[str, Any], default: Sequence[str] | None
) -> tuple[str, ...]:
    names = reader.names(table, "arms", list(ARMS if default is None else default))
    try:
        resolve_arms(names)
    except ConfigError as error:
        raise reader.error(error.message, error.remedy or "") from None
    return names


def _schedules(
    reader: _Reader, table: Mapping[str, Any], arms: tuple[str, ...]
) -> dict[str, Schedule]:
    found = {}
    written = reader.table(table, "schedules")
    for name in written:
        where = f"[{TABLE}.schedules.{name}]"
        one = reader.table(written, name)
        reader.known(one, ("factor", "arms"), where)
        factor = one.get("factor", 1.0)
        number = isinstance(factor, int | float) and not isinstance(factor, bool)
        if not number or not math.isfinite(factor) or factor <= 0:
            raise reader.error(f"factor is {factor!r}", "Use a number above 0.", where)
        found[name] = Schedule(float(factor), _arms(reader, one, arms))
    return found or {STANDARD: Schedule(1.0, arms)}


def _maps(
    reader: _Reader, table: Mapping[str, Any], sources: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, Path]]:
    found = _files(reader, table, "maps", tuple(sources))
    for target, files in found.items():
        reader.known(files, sources[target], f"[{TABLE}.maps.{target}]")
    return found


def _files(
    reader: _Reader, table: Mapping[str, Any], key: str, targets: tuple[str, ...]
) -> dict[str, dict[str, Path]]:
    """Files by name, by target; relative ones are relative to the protocol's file."""
    written = reader.table(table, key)
    reader.known(written, targets, f"[{TABLE}.{key}]")
    found: dict[str, dict[str, Path]] = {}
    for target in written:
        files = reader.table(written, target)
        for name, file in files.items():
            if not isinstance(file, str) or not file:
                raise reader.error(
                    f"{name!r} must be a file, not {file!r}",
                    'Write NAME = "FILE".',
                    f"[{TABLE}.{key}.{target}]",
                )
        found[target] = {n: reader.folder / Path(f).expanduser() for n, f in files.items()}
    return found
