"""The results of a downstream comparison: gathered from its folder, compared seed by seed, as JSON.

AP and its kin are fractions in [0, 1] here; tables and plots show percent. An arm is compared with
another over the seeds both have: the difference is taken seed by seed, then averaged, as seeds
share the images' order and the initial weights.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from relabel.errors import ConfigError, DataError, did_you_mean

METRICS = "metrics.json"
CURVE = "curve.json"
TRAINING = "training"
BASE = "target-only"
ORACLE = "oracle"
Metric = Literal["AP", "AP50", "AP75"]
METRIC_NAMES: tuple[Metric, ...] = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and the sample standard deviation (n - 1), None for a single seed."""

    mean: float
    std: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Mean | None:
        """Of the values that are there; None if there is none."""
        known = [v for v in values if v is not None]
        if not known:
            return None
        std = statistics.stdev(known) if len(known) > 1 else None
        return cls(statistics.fmean(known), std, len(known))


@dataclass(frozen=True)
class ArmResult:
    """One arm: numbers on the target's test split, an entry per finished seed.

    Attributes:
        seeds: the seeds that are finished, S of them.
        AP, AP50, AP75: S fractions; None where there was nothing to measure.
        per_class: AP by class name, S fractions each; None for a class without test boxes.
        curves: by seed, the points ``{"step", "AP", "AP50", "AP75"}`` measured on the way.
    """

    name: str
    seeds: tuple[int, ...]
    AP: tuple[float | None, ...]
    AP50: tuple[float | None, ...]
    AP75: tuple[float | None, ...]
    per_class: dict[str, tuple[float | None, ...]]
    curves: dict[int, tuple[dict[str, Any], ...]] = field(default_factory=dict)

    def values(self, metric: Metric = "AP", category: str | None = None) -> dict[int, float | None]:
        """By seed: a metric, or the AP of ``category``."""
        numbers = getattr(self, metric) if category is None else self.per_class.get(category, ())
        return dict(zip(self.seeds, numbers, strict=False))

    def to_dict(self) -> dict[str, Any]:
        """The arm's entry in the JSON result."""
        return {
            **{metric: list(getattr(self, metric)) for metric in METRIC_NAMES},
            "per_class": {name: list(values) for name, values in self.per_class.items()},
        }


@dataclass(frozen=True)
class Comparison:
    """All arms of a comparison.

    Attributes:
        arms: by name, in the order asked for; only those with a finished seed.
        not_run: the other arms, with the reason.
        seeds: the seeds asked for.
        base: the arm that the others are compared with.
        about: what else the JSON result says at its top level, such as ``target``, ``sources``,
            ``detector``, ``steps``, ``name_maps`` and ``settings``; JSON-ready.
        target_only_from: the first iteration on target images alone, marked in the curves.
        command: the command line, for ``downstream.md``.
        hardware: what it ran on, for ``downstream.md``; None asks the machine.
    """

    arms: dict[str, ArmResult]
    not_run: dict[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    base: str = BASE
    about: dict[str, Any] = field(default_factory=dict)
    target_only_from: int | None = None
    command: str | None = None
    hardware: str | None = None

    @property
    def classes(self) -> list[str]:
        """Every class that an arm was measured on, in the order of the first arm that has it."""
        return list(dict.fromkeys(name for arm in self.arms.values() for name in arm.per_class))

    @property
    def missing_seeds(self) -> dict[str, list[int]]:
        """By arm, the seeds asked for that are not finished; arms that have all are left out."""
        missing = {
            name: [seed for seed in self.seeds if seed not in arm.seeds]
            for name, arm in self.arms.items()
        }
        return {name: seeds for name, seeds in missing.items() if seeds}

    def mean(self, arm: str, metric: Metric = "AP", category: str | None = None) -> Mean | None:
        """Mean over an arm's seeds, None where nothing was measured."""
        return Mean.of(list(self._arm(arm).values(metric, category).values()))

    def paired(
        self,
        arm: str,
        metric: Metric = "AP",
        category: str | None = None,
        *,
        base: str | None = None,
    ) -> dict[int, float]:
        """Differences to the base arm by seed, over the seeds measured in both."""
        ours = self._arm(arm).values(metric, category)
        theirs = self._arm(base or self.base).values(metric, category)
        differences = {}
        for seed, value in ours.items():
            other = theirs.get(seed)
            if value is not None and other is not None:
                differences[seed] = value - other
        return differences

    def difference(
        self,
        arm: str,
        metric: Metric = "AP",
        category: str | None = None,
        *,
        base: str | None = None,
    ) -> Mean | None:
        """Mean of the paired differences to the base arm; None without a seed in common."""
        return Mean.of(list(self.paired(arm, metric, category, base=base).values()))

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
        if self.missing_seeds:
            content["missing_seeds"] = self.missing_seeds
        if ORACLE in self.arms and self.base in self.arms:
            content["share_of_oracle_gain"] = {
                name: share_of_gain(self, name, ORACLE, self.base).value
                for name in self.arms
                if name not in (ORACLE, self.base)
            }
        return content | {k: v for k, v in self.about.items() if k not in content}

    def _arm(self, name: str) -> ArmResult:
        if name not in self.arms:
            raise ConfigError(
                f"arm {name!r} has no results", remedy=did_you_mean(name, list(self.arms))
            )
        return self.arms[name]


@dataclass(frozen=True)
class Share:
    """How much of an oracle's gain an arm reaches.

    Attributes:
        value: the mean gain of the arm over the mean gain of the oracle; None without a seed that
            all three have, or where the oracle gains nothing.
        per_seed: the same for each seed; None where the oracle gains nothing.
    """

    value: float | None
    per_seed: dict[int, float | None]


def share_of_gain(
    comparison: Comparison, arm: str, oracle: str = ORACLE, base: str = BASE, metric: Metric = "AP"
) -> Share:
    """``(AP_arm - AP_base) / (AP_oracle - AP_base)``, over the seeds that all three have.

    Raises:
        ConfigError: one of the arms has no results.
    """
    gains = comparison.paired(arm, metric, base=base)
    bounds = comparison.paired(oracle, metric, base=base)
    common = [seed for seed in gains if seed in bounds]
    return Share(
        _ratio(sum(gains[s] for s in common), sum(bounds[s] for s in common)),
        {s: _ratio(gains[s], bounds[s]) for s in common},
    )


def gather(
    folder: Path,
    arms: Sequence[str],
    seeds: Sequence[int],
    *,
    not_run: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
    base: str = BASE,
    target_only_from: int | None = None,
    command: str | None = None,
    hardware: str | None = None,
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
        arm = read_arm(folder / TRAINING / name, name, seeds)
        if arm is None:
            reasons[name] = "no training of it is finished"
        else:
            found[name] = arm
    return Comparison(
        arms=found,
        not_run={name: reasons[name] for name in (*arms, *reasons) if name in reasons},
        seeds=tuple(seeds),
        base=base,
        about=dict(about or {}),
        target_only_from=target_only_from,
        command=command,
        hardware=hardware,
    )


def read_arm(folder: Path, name: str, seeds: Sequence[int]) -> ArmResult | None:
    """The finished seeds of one arm, None if there is none.

    Raises:
        DataError: a result that is damaged.
    """
    finished = [seed for seed in seeds if (folder / f"seed{seed}" / METRICS).is_file()]
    if not finished:
        return None
    metrics = [_read_metrics(folder / f"seed{seed}" / METRICS) for seed in finished]
    classes = list(dict.fromkeys(c for m in metrics for c in m["per_class"]))
    curves = {}
    for seed in finished:
        file = folder / f"seed{seed}" / CURVE
        if file.is_file():
            curves[seed] = _read_curve(file)
    return ArmResult(
        name=name,
        seeds=tuple(finished),
        AP=tuple(m["AP"] for m in metrics),
        AP50=tuple(m["AP50"] for m in metrics),
        AP75=tuple(m["AP75"] for m in metrics),
        per_class={c: tuple(m["per_class"].get(c) for m in metrics) for c in classes},
        curves=curves,
    )


def _read_metrics(file: Path) -> dict[str, Any]:
    content = _read_json(file)
    classes = content.get("per_class") if isinstance(content, dict) else None
    if not isinstance(classes, dict):
        raise _damaged(file, "it has no `per_class`")
    for metric in METRIC_NAMES:
        if metric not in content:
            raise _damaged(file, f"it has no `{metric}`")
    numbers = [*(content[m] for m in METRIC_NAMES), *classes.values()]
    if not all(_is_fraction(v) for v in numbers):
        raise _damaged(file, "a value is not a fraction between 0 and 1")
    return content


def _read_curve(file: Path) -> tuple[dict[str, Any], ...]:
    content = _read_json(file)
    if not isinstance(content, list) or not all(
        isinstance(p, dict)
        and isinstance(p.get("step"), int)
        and all(_is_fraction(p.get(m)) for m in METRIC_NAMES)
        for p in content
    ):
        raise _damaged(file, "it is not a list of points with step, AP, AP50 and AP75")
    return tuple(sorted(content, key=lambda p: p["step"]))


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(file, str(error)) from error


def _is_fraction(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _damaged(file: Path, why: str) -> DataError:
    return DataError(
        f"is damaged: {why}",
        file=file,
        remedy="Delete the file's folder and run the comparison again; the rest is kept.",
    )


def _ratio(gain: float, bound: float) -> float | None:
    return gain / bound if bound > 0 else None
