"""The results of a downstream comparison: gathered from its folder, compared seed by seed, as JSON.

AP and its kin are fractions in [0, 1] here; tables and plots show percent. An arm is compared with
another over the seeds both have: the difference is taken seed by seed, then averaged, as seeds
share the images' order and the initial weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from relabel.errors import ConfigError, DataError, did_you_mean
from relabel.studies.means import Mean, seed_differences

METRICS = "metrics.json"
CURVE = "curve.json"
TRAINING = "training"
BASE = "target-only"
ORACLE = "oracle"
Metric = Literal["AP", "AP50", "AP75"]
METRIC_NAMES: tuple[Metric, ...] = ("AP", "AP50", "AP75")


_Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)] | None


class CurvePoint(TypedDict):
    """What was measured at one iteration; None where there was nothing to measure."""

    step: int
    AP: _Fraction
    AP50: _Fraction
    AP75: _Fraction


class _Metrics(TypedDict):
    AP: _Fraction
    AP50: _Fraction
    AP75: _Fraction
    per_class: dict[str, _Fraction]


@dataclass(frozen=True)
class ArmResult:
    """One arm: numbers on the target's test split, an entry per finished seed.

    Attributes:
        seeds: the seeds that are finished, S of them.
        AP, AP50, AP75: S fractions; None where there was nothing to measure.
        per_class: AP by class name, S fractions each; None for a class without test boxes.
        curves: by seed, the points measured on the way, by step.
    """

    name: str
    seeds: tuple[int, ...]
    AP: tuple[float | None, ...]
    AP50: tuple[float | None, ...]
    AP75: tuple[float | None, ...]
    per_class: dict[str, tuple[float | None, ...]]
    curves: dict[int, tuple[CurvePoint, ...]] = field(default_factory=dict)

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
    def relative(self) -> bool:
        """True if there is something to compare with the base arm."""
        return self.base in self.arms and len(self.arms) > 1

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
        theirs = self._arm(base or self.base).values(metric, category)
        return seed_differences(self._arm(arm).values(metric, category), theirs)

    def difference(
        self, arm: str, metric: Metric = "AP", category: str | None = None
    ) -> Mean | None:
        """Mean of the paired differences to the base arm; None without a seed in common."""
        return Mean.of(list(self.paired(arm, metric, category).values()))

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
                name: share_of_gain(self, name, ORACLE, self.base)
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


def share_of_gain(
    comparison: Comparison, arm: str, oracle: str = ORACLE, base: str = BASE
) -> float | None:
    """``(AP_arm - AP_base) / (AP_oracle - AP_base)``, over the seeds that all three have.

    None without such a seed, or where the oracle gains nothing.

    Raises:
        ConfigError: one of the arms has no results.
    """
    gains = comparison.paired(arm, base=base)
    bounds = comparison.paired(oracle, base=base)
    common = gains.keys() & bounds.keys()
    bound = sum(bounds[s] for s in sorted(common))
    return sum(gains[s] for s in sorted(common)) / bound if bound > 0 else None


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
        arm = _read_arm(folder / TRAINING / name, name, seeds)
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


def _read_arm(folder: Path, name: str, seeds: Sequence[int]) -> ArmResult | None:
    """The finished seeds of one arm, None if there is none."""
    finished = [seed for seed in seeds if (folder / f"seed{seed}" / METRICS).is_file()]
    if not finished:
        return None
    metrics = [_read(folder / f"seed{seed}" / METRICS, _Metrics) for seed in finished]
    classes = list(dict.fromkeys(c for m in metrics for c in m["per_class"]))
    curves = {}
    for seed in finished:
        file = folder / f"seed{seed}" / CURVE
        if file.is_file():
            points = _read(file, list[CurvePoint])
            curves[seed] = tuple(sorted(points, key=lambda p: p["step"]))
    return ArmResult(
        name,
        tuple(finished),
        *(tuple(m[metric] for m in metrics) for metric in METRIC_NAMES),
        per_class={c: tuple(m["per_class"].get(c) for m in metrics) for c in classes},
        curves=curves,
    )


def _read(file: Path, type: Any) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes(), type=type)
    except msgspec.DecodeError as error:
        raise DataError(
            f"is damaged: {error}",
            file=file,
            remedy="Delete the file's folder and run the comparison again; the rest is kept.",
        ) from error
