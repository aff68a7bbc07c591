"""Benchmark protocols: a relabel.toml whose table [protocol] says what is compared.

[protocol]
title = "Label divergence"
targets = ["cityscapes", "nuimages"]         # each in turn
arms = ["target-only", "lat"]                # default: all
seeds = [0, 1, 2]
detectors = ["faster-rcnn", "rt-detr"]       # default: faster-rcnn

[protocol.sources]                           # default: the other targets
cityscapes = ["nuimages", "waymo"]
[protocol.sources.nuimages]                  # or several sets by name, each a comparison
both = ["cityscapes", "waymo"]
waymo = ["waymo"]

[protocol.schedules.standard]                # default: this one alone
factor = 1.0
[protocol.schedules.long]                    # the long training: three times the iterations
factor = 3.0
arms = ["target-only", "lat"]                # default: the protocol's

[protocol.extra.cityscapes]                  # arms from COCO files, as --extra adds them
oracle = "labels/oracle.json"                # relative to the file
[protocol.extra.nuimages.oracle]             # or a file for each source: those of a set are used;
waymo = "labels/waymo_in_nuimages.json"      # the oracle's are what labels are compared with

[protocol.maps.cityscapes]                   # name maps of sources, as --map gives them
waymo = "maps/waymo_to_cityscapes.yaml"

[protocol.sizes.small]                       # what `with_size` changes, here for two cores
seeds = [0]
specialist = { image_size = 320 }
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from relabel.errors import ConfigError, did_you_mean
from relabel.settings import AboveZero, Count, Settings, Text, misfit, settings_from
from relabel.studies.downstream.arms import ARMS, resolve_arms
from relabel.studies.downstream.results import ORACLE

if TYPE_CHECKING:
    from relabel.catalogue.catalogue import Catalogue

TABLE = "protocol"
STANDARD = "standard"
_SIZED_KEYS = ("targets", "arms", "seeds", "detectors", "schedules")
_SIZED_TABLES = ("specialist", "crosslabel", "lat", "align", "sam3", "detector", "downstream")
_Names = Annotated[tuple[Text, ...], Meta(min_length=1)]
_Detector = Literal["faster-rcnn", "rt-detr", "certainty"]


@dataclass(frozen=True)
class Schedule(Settings):
    """Method long the compared detectors train.

    Attributes:
        factor: the iterations, relative to those of the settings; the same for every arm.
        arms: names of the arms that are trained this long.
    """

    factor: AboveZero = 1.0
    arms: _Names = tuple(ARMS)


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
    extra: Mapping[str, tuple[Path, ...]]
    maps: Mapping[str, Path]
    source_set: str = ""
    truth: Mapping[str, Path] = field(default_factory=dict)

    @property
    def workspace(self) -> str:
        """Where target and sources have their folder, relative to the protocol's."""
        return f"{self.target}/{self.source_set}" if self.source_set else self.target

    @property
    def folder(self) -> str:
        """Where its results go, relative to the protocol's folder."""
        return f"{self.workspace}/{self.detector}/{self.schedule}"


@dataclass(frozen=True)
class Protocol(Settings):
    """What is compared.

    In the file, relative names of files are relative to it, and what the inner tables hold is
    checked one by one.

    Attributes:
        targets: datasets that are the target in turn.
        title: for tables.
        arms: names of `relabel.studies.downstream.arms.ARMS`.
        seeds: of the downstream trainings.
        detectors: families that are trained downstream.
        sources: tuple of source datasets by target, or such tuples by the name of the set.
        schedules: `Schedule` by name; the paper's long training is one beside the standard one.
        extra: a COCO file, or COCO files by source, by arm name, by target.
        maps: YAML name maps by source, by target; other sources' come from names and data.
        sizes: what `with_size` changes, by name.
    """

    targets: _Names = ()
    title: str = ""
    arms: _Names = tuple(ARMS)
    seeds: Annotated[tuple[Count, ...], Meta(min_length=1)] = (0, 1, 2)
    detectors: Annotated[tuple[_Detector, ...], Meta(min_length=1)] = ("faster-rcnn",)
    sources: dict = field(default_factory=dict)
    schedules: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)
    maps: dict = field(default_factory=dict)
    sizes: dict = field(default_factory=dict)

    def runs(self) -> list[ProtocolRun]:
        """All comparisons, schedule by schedule, so that the standard one is whole first."""
        return [
            ProtocolRun(
                target,
                sources,
                schedule.arms,
                self.seeds,
                detector,
                name,
                schedule.factor,
                _of_sources(self.extra.get(target, {}), sources),
                {k: v for k, v in self.maps.get(target, {}).items() if k in sources},
                source_set,
                _truth(self.extra.get(target, {}), sources),
            )
            for name, schedule in self.schedules.items()
            for detector in self.detectors
            for target in self.targets
            for source_set, sources in _source_sets(self.sources[target]).items()
        ]


def read_protocol(catalogue: Catalogue) -> Protocol:
    """The protocol of a relabel.toml.

    Raises:
        ConfigError: no [protocol], a key nobody reads, a value of the wrong type, an unknown
            dataset or arm, a target that is its own source or has no test images.
    """
    with _of_file(catalogue):
        table = catalogue.table(TABLE)
        if not table:
            raise ConfigError(
                f"there is no table [{TABLE}]",
                remedy="Take one of benchmarks/protocols/ as a pattern.",
            )
        written = settings_from(Protocol, table, where=f"[{TABLE}]")
        targets = _unique(written.targets)
        for target in targets:
            entry = catalogue.get(target)
            if not (entry.has("test") or entry.has("val")):
                raise ConfigError(
                    f"target {target!r} names no test images",
                    remedy=f"Add `test`, `test_split` or `holdout` to [datasets.{target}].",
                )
        others = {t: [n for n in targets if n != t] for t in targets}
        sources = _sources(others | written.sources, targets)
        named = {t: [n for s in _source_sets(sources[t]).values() for n in s] for t in targets}
        for target, names in named.items():
            for name in names:
                catalogue.get(name)
            if target in names:
                raise ConfigError(f"target {target!r} is its own source", remedy="Leave it out.")
        return replace(
            written,
            title=written.title or "/".join(targets),
            targets=targets,
            sources=sources,
            arms=_unique(written.arms),
            seeds=_unique(written.seeds),
            detectors=_unique(written.detectors),
            schedules=_schedules(written),
            extra=_extra(catalogue, written.extra, named),
            maps=_files(catalogue, "maps", written.maps, named),
        )


def with_size(catalogue: Catalogue, size: str) -> Catalogue:
    """The catalogue with what ``[protocol.sizes.SIZE]`` changes in the protocol and the settings.

    Raises:
        ConfigError: no such size, or keys in it that a size cannot change.
    """
    with _of_file(catalogue):
        protocol = catalogue.table(TABLE)
        sizes = _entries(protocol.pop("sizes", {}), f"[{TABLE}.sizes]", dict)
        if size not in sizes:
            raise ConfigError(
                f"the protocol has no size {size!r}", remedy=did_you_mean(size, sizes)
            )
        where = f"[{TABLE}.sizes.{size}]"
        changes = _entries(sizes[size], where, Any, (*_SIZED_KEYS, *_SIZED_TABLES))
        settings = {k: changes.pop(k) for k in _SIZED_TABLES if k in changes}
        tables = {name: catalogue.table(name) for name in catalogue.tables}
        for name, values in _entries(settings, where, dict).items():
            tables[name] = {**catalogue.table(name), **values}
    return replace(catalogue, tables={**tables, TABLE: {**protocol, **changes}})


@contextmanager
def _of_file(catalogue: Catalogue) -> Iterator[None]:
    """Errors name the catalogue's file, and the table where they name no other."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            error.message,
            file=error.file or catalogue.file,
            record=error.record or f"[{TABLE}]",
            remedy=error.remedy,
        ) from None


def _entries(
    table: Mapping[str, Any], where: str, hint: Any, known: Sequence[str] | None = None
) -> dict[str, Any]:
    """The values of an inner table as the type ``hint``; its keys are among ``known``, if given."""
    found = {}
    for key, value in table.items():
        if known is not None and key not in known:
            raise ConfigError(f"unknown key {key!r}", record=where, remedy=did_you_mean(key, known))
        try:
            found[key] = msgspec.convert(value, hint)
        except msgspec.ValidationError:
            raise ConfigError(misfit(key, value, hint), record=where) from None
    return found


def _sources(table: Mapping[str, Any], targets: Sequence[str]) -> dict[str, Any]:
    """By target the names of its sources, or such names by the name of their set."""
    where = f"[{TABLE}.sources"
    sets = {k: v for k, v in table.items() if isinstance(v, dict)}
    found: dict[str, Any] = {
        target: {
            name: _unique(names)
            for name, names in _entries(one, f"{where}.{target}]", _Names).items()
        }
        for target, one in _entries(sets, f"{where}]", dict, targets).items()
    }
    lists = {k: v for k, v in table.items() if k not in sets}
    for target, names in _entries(lists, f"{where}]", _Names, targets).items():
        found[target] = _unique(names)
    return found


def _source_sets(sources: Any) -> dict[str, tuple[str, ...]]:
    """The sets of a target by name; the only one has no name."""
    return sources if isinstance(sources, dict) else {"": sources}


def _extra(
    catalogue: Catalogue, table: Mapping[str, Any], sources: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """By target and arm a file, or files by source."""
    found: dict[str, dict[str, Any]] = {}
    for target, arms in _entries(table, f"[{TABLE}.extra]", dict, list(sources)).items():
        by_source = {name: files for name, files in arms.items() if isinstance(files, dict)}
        whole = {name: file for name, file in arms.items() if name not in by_source}
        found[target] = _files(catalogue, "extra", {target: whole}, {target: None})[target]
        known = dict.fromkeys(by_source, sources[target])
        found[target] |= _files(catalogue, f"extra.{target}", by_source, known)
    return found


def _of_sources(extra: Mapping[str, Any], sources: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """The files of each arm; an arm that has files by source has those of ``sources``, if any."""
    found = {
        name: tuple(files[s] for s in sources if s in files)
        if isinstance(files, dict)
        else (files,)
        for name, files in extra.items()
    }
    return {name: files for name, files in found.items() if files}


def _truth(extra: Mapping[str, Any], sources: Sequence[str]) -> dict[str, Path]:
    """The true labels by source: the oracle's files, where it has them by source."""
    files = extra.get(ORACLE)
    if not isinstance(files, dict):
        return {}
    return {source: files[source] for source in sources if source in files}


def _schedules(written: Protocol) -> dict[str, Schedule]:
    """Schedules by name; their arms are the protocol's, if they name none."""
    where = f"[{TABLE}.schedules"
    tables = _entries(written.schedules, f"{where}]", dict) or {STANDARD: {}}
    found = {}
    for name, table in tables.items():
        one = settings_from(Schedule, {"arms": written.arms, **table}, where=f"{where}.{name}]")
        resolve_arms(one.arms)
        found[name] = replace(one, arms=_unique(one.arms))
    return found


def _files(
    catalogue: Catalogue,
    key: str,
    table: Mapping[str, Any],
    known: Mapping[str, Sequence[str] | None],
) -> dict[str, dict[str, Path]]:
    """Files by name, by target; relative ones are relative to the protocol's file.

    Args:
        known: the names that a target's files may have; None for any.
    """
    where = f"[{TABLE}.{key}"
    return {
        target: {
            name: catalogue.folder / Path(file).expanduser()
            for name, file in _entries(files, f"{where}.{target}]", Text, known[target]).items()
        }
        for target, files in _entries(table, f"{where}]", dict, list(known)).items()
    }


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))
