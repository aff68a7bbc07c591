"""The results of a downstream comparison: gathered from its folder, compared seed by seed, as JSON.

AP and its kin are fractions in [0, 1] here; tables and plots show percent. An arm is compared with
another over the seeds both have: the difference is taken seed by seed, then averaged, as seeds
share the images' order and the initial weights. Over the test images there are bootstrap intervals
of the differences, where the trainings left their matches: see
`relabel.studies.downstream.intervals`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import numpy as np

from relabel.errors import ConfigError, DataError, did_you_mean
from relabel.evaluation.resampling import RESAMPLES, Matches
from relabel.studies.downstream.intervals import (
    CONFIDENCE,
    Interval,
    paired_intervals,
    resampled,
)
from relabel.studies.means import Mean, seed_differences

METRICS = "metrics.json"
CURVE = "curve.json"
MATCHES = "matches.npz"
TRAINING = "training"
BASE = "target-only"
ORACLE = "oracle"
LAT = "lat"
LOG = "downstream.log"  # when each training ran, in the comparison's folder
Metric = Literal["AP", "AP50", "AP75", "APs", "APm", "APl"]
METRIC_NAMES: tuple[Metric, ...] = ("AP", "AP50", "AP75")
SIZE_NAMES: tuple[Metric, ...] = ("APs", "APm", "APl")


_Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)] | None


class CurvePoint(TypedDict):
    """What was measured at one iteration; None where there was nothing to measure."""

    step: int
    AP: _Fraction
    AP50: _Fraction
    AP75: _Fraction


class Metrics(TypedDict):
    """What a finished training is measured to; None where there was nothing to measure.

    ``per_class`` is AP by class name, None for a class without test boxes; ``APs``, ``APm`` and
    ``APl`` are AP by size, which trainings of older versions lack.
    """

    AP: _Fraction
    AP50: _Fraction
    AP75: _Fraction
    APs: NotRequired[_Fraction]
    APm: NotRequired[_Fraction]
    APl: NotRequired[_Fraction]
    per_class: dict[str, _Fraction]


@dataclass(frozen=True)
class ArmResult:
    """One arm: numbers on the target's test split.

    Attributes:
        metrics: by finished seed.
        curves: by seed, the points measured on the way, by step.
        matches: by seed, what became of each detection on the test images.
    """

    metrics: dict[int, Metrics]
    curves: dict[int, list[CurvePoint]] = field(default_factory=dict)
    matches: dict[int, Matches] = field(default_factory=dict, repr=False, compare=False)

    @property
    def classes(self) -> list[str]:
        """Every class that a seed was measured on."""
        return list(dict.fromkeys(c for found in self.metrics.values() for c in found["per_class"]))

    def values(self, metric: Metric = "AP", category: str | None = None) -> dict[int, float | None]:
        """By seed: a metric, or the AP of ``category``."""
        return {
            seed: found.get(metric) if category is None else found["per_class"].get(category)
            for seed, found in self.metrics.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The arm's entry in the JSON result."""
        known: list[Metric] = [*METRIC_NAMES]
        known.extend(m for m in SIZE_NAMES if any(m in f for f in self.metrics.values()))
        return {
            **{metric: list(self.values(metric).values()) for metric in known},
            "per_class": {c: list(self.values(category=c).values()) for c in self.classes},
        }


@dataclass(frozen=True)
class Comparison:
    """All arms of a comparison; the others are compared with `BASE`.

    Attributes:
        arms: by name, in the order asked for; only those with a finished seed.
        not_run: the other arms, with the reason.
        seeds: the seeds asked for.
        about: what else the JSON result says at its top level, such as ``target``, ``sources``,
            ``detector``, ``steps``, ``name_maps`` and ``settings``; JSON-ready.
        target_only_from: the first iteration on target images alone, marked in the curves.
        command: the command line, for ``downstream.md``.
        hardware: what it ran on, for ``downstream.md``; None asks the machine.
    """

    arms: dict[str, ArmResult]
    not_run: dict[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    target_only_from: int | None = None
    command: str | None = None
    hardware: str | None = None

    @property
    def relative(self) -> bool:
        """True if there is something to compare with the base arm."""
        return BASE in self.arms and len(self.arms) > 1

    @property
    def classes(self) -> list[str]:
        """Every class that an arm was measured on, in the order of the first arm that has it."""
        return list(dict.fromkeys(name for arm in self.arms.values() for name in arm.classes))

    @property
    def missing_seeds(self) -> dict[str, list[int]]:
        """By arm, the seeds asked for that are not finished; arms that have all are left out."""
        missing = {
            name: [seed for seed in self.seeds if seed not in arm.metrics]
            for name, arm in self.arms.items()
        }
        return {name: seeds for name, seeds in missing.items() if seeds}

    def mean(self, arm: str, metric: Metric = "AP", category: str | None = None) -> Mean | None:
        """Mean over an arm's seeds, None where nothing was measured."""
        return Mean.of(self._arm(arm).values(metric, category).values())

    def paired(
        self, arm: str, metric: Metric = "AP", category: str | None = None
    ) -> dict[int, float]:
        """Differences to the base arm by seed, over the seeds measured in both."""
        theirs = self._arm(BASE).values(metric, category)
        return seed_differences(self._arm(arm).values(metric, category), theirs)

    def difference(
        self, arm: str, metric: Metric = "AP", category: str | None = None
    ) -> Mean | None:
        """Mean of the paired differences to the base arm; None without a seed in common."""
        return Mean.of(self.paired(arm, metric, category).values())

    def intervals(self, arm: str, reference: str = BASE) -> dict[Metric, Interval] | None:
        """Bootstrap intervals of an arm minus another, for AP, AP50 and AP75.

        None where the trainings left no matches, or have no seed in common.

        Raises:
            ConfigError: one of the arms has no results.
        """
        for name in (arm, reference):
            self._arm(name)
        found = paired_intervals(self._resampled[arm], self._resampled[reference])
        return None if found is None else dict(zip(METRIC_NAMES, found, strict=True))

    @cached_property
    def _resampled(self) -> dict[str, dict[int, np.ndarray]]:
        images = {len(m.truths) for arm in self.arms.values() for m in arm.matches.values()}
        if len(images) > 1:
            raise ConfigError(
                "its trainings were measured on different test images",
                remedy="Run the comparison again with --overwrite.",
            )
        return {name: resampled(arm.matches) for name, arm in self.arms.items()}

    def share_of_gain(self, arm: str) -> float | None:
        """``(AP_arm - AP_base) / (AP_oracle - AP_base)``, over the seeds that all three have.

        None without such a seed, or where the oracle gains nothing.

        Raises:
            ConfigError: one of the arms has no results.
        """
        gains, bounds = self.paired(arm), self.paired(ORACLE)
        common = sorted(gains.keys() & bounds.keys())
        bound = sum(bounds[s] for s in common)
        return sum(gains[s] for s in common) / bound if bound > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """The JSON result: ``arms``, ``not_run``, ``seeds``, and what ``about`` adds.

        The lists of an arm follow ``seeds``; where seeds are not finished, ``missing_seeds``
        names them and the arm's lists are shorter.
        """
        content: dict[str, Any] = {
            "arms": {name: arm.to_dict() for name, arm in self.arms.items()},
            "not_run": dict(self.not_run),
            "seeds": list(self.seeds),
        }
        if any(arm.matches for arm in self.arms.values()):
            content["intervals"] = {
                "confidence": CONFIDENCE,
                "resamples": RESAMPLES,
                "minus_target_only": self._interval_dicts({n: (n, BASE) for n in self.arms}),
                "lat_minus": self._interval_dicts({n: (LAT, n) for n in self.arms}),
            }
        if self.missing_seeds:
            content["missing_seeds"] = self.missing_seeds
        if ORACLE in self.arms and BASE in self.arms:
            content["share_of_oracle_gain"] = {
                name: self.share_of_gain(name) for name in self.arms if name not in (ORACLE, BASE)
            }
        return content | {k: v for k, v in self.about.items() if k not in content}

    def _interval_dicts(self, pairs: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
        """JSON-ready: by name, the intervals of the first arm of its pair minus the second."""
        found = {
            name: self.intervals(*pair)
            for name, pair in pairs.items()
            if pair[0] != pair[1] and self.arms.keys() >= set(pair)
        }
        return {
            name: {metric: value.to_dict() for metric, value in intervals.items()}
            for name, intervals in found.items()
            if intervals is not None
        }

    def _arm(self, name: str) -> ArmResult:
        if name not in self.arms:
            raise ConfigError(
                f"arm {name!r} has no results", remedy=did_you_mean(name, list(self.arms))
            )
        return self.arms[name]


def training_name(arm: str, seed: int) -> str:
    """What a training is called as a stage."""
    return f"training {arm}, seed {seed}"


def gather(
    folder: Path,
    arms: Sequence[str],
    seeds: Sequence[int],
    *,
    not_run: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
    target_only_from: int | None = None,
) -> Comparison:
    """Read the results of ``folder/training/<arm>/seed<k>/``.

    Arms of ``not_run`` are not looked for. An arm without a finished seed joins them.

    Args:
        arms: in the order of the tables.
        seeds: the seeds asked for.

    Raises:
        DataError: a result that is damaged.
    """
    reasons = dict(not_run or {})
    found = {}
    for name in arms:
        if name in reasons:
            continue
        arm = _read_arm(folder / TRAINING / name, seeds)
        if arm.metrics:
            found[name] = arm
        else:
            reasons[name] = "no training of it is finished"
    return Comparison(
        arms=found,
        not_run={name: reasons[name] for name in (*arms, *reasons) if name in reasons},
        seeds=tuple(seeds),
        about=dict(about or {}),
        target_only_from=target_only_from,
    )


def _read_arm(folder: Path, seeds: Sequence[int]) -> ArmResult:
    """The finished seeds of one arm."""
    metrics, curves, matches = {}, {}, {}
    for seed in seeds:
        place = folder / f"seed{seed}"
        if (place / METRICS).is_file():
            metrics[seed] = _read(place / METRICS, Metrics)
            if (place / CURVE).is_file():
                points = _read(place / CURVE, list[CurvePoint])
                curves[seed] = sorted(points, key=lambda p: p["step"])
            if (place / MATCHES).is_file():
                matches[seed] = Matches.load(place / MATCHES)
    return ArmResult(metrics, curves, matches)


def _read(file: Path, type: Any) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes(), type=type)
    except msgspec.DecodeError as error:
        raise DataError(
            f"is damaged: {error}",
            file=file,
            remedy="Delete the file's folder and run the comparison again; the rest is kept.",
        ) from error
