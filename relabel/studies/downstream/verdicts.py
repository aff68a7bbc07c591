"""What a comparison can decide: is there room, is training long enough, does a class lose?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relabel.evaluation.tables import percentage
from relabel.studies.downstream.intervals import Interval, interval_text
from relabel.studies.downstream.results import BASE, ORACLE, Comparison

LEAST_ROOM = 0.03
"""Where true labels gain less AP, other labels cannot be told apart."""
MOST_LOSS = 0.01
LEAST_PASSES = 8.0


@dataclass(frozen=True)
class Room:
    """What the true labels of the sources gain over the target alone: AP, a fraction.

    Attributes:
        gain: mean over the seeds of both.
        interval: over the test images; None where the trainings left no matches.
    """

    gain: float
    seeds: int
    interval: Interval | None

    @property
    def decides(self) -> bool:
        """Whether labels can be told apart here."""
        return self.gain >= LEAST_ROOM

    @property
    def range_text(self) -> str:
        """The interval in percent."""
        return interval_text(self.interval, whole=False).rstrip(" *")

    @property
    def text(self) -> str:
        """One sentence, in percent."""
        seeds = "one seed" if self.seeds == 1 else f"mean of {self.seeds} seeds"
        if self.interval is not None:
            seeds += f"; 95 % interval {self.range_text}"
        gained = f"{percentage(self.gain, signed=True)} AP over {BASE} ({seeds})"
        if self.decides:
            return f"Room: the true labels ({ORACLE}) bring {gained}."
        return (
            f"Nothing can be decided here: the true labels ({ORACLE}) bring {gained}, "
            f"less than {100 * LEAST_ROOM:g}."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "AP": self.gain,
            "seeds": self.seeds,
            "interval": None if self.interval is None else self.interval.to_dict(),
            "decides": self.decides,
            "text": self.text,
        }


def room_of(comparison: Comparison) -> Room | None:
    """The room of a comparison with an oracle and the base arm; None without a common seed."""
    if not {ORACLE, BASE} <= comparison.arms.keys():
        return None
    gain = comparison.difference(ORACLE)
    if gain is None:
        return None
    intervals = comparison.intervals(ORACLE)
    return Room(gain.mean, gain.count, intervals["AP"] if intervals else None)


def losing_classes(comparison: Comparison) -> dict[str, dict[str, float]]:
    """By arm: the classes that lose more than 1 AP to the base arm, and how much; fractions.

    Every arm but the base arm has an entry.
    """
    if not comparison.relative:
        return {}
    found: dict[str, dict[str, float]] = {}
    for arm in comparison.arms:
        if arm != BASE:
            changes = {c: comparison.difference(arm, category=c) for c in comparison.classes}
            found[arm] = {c: d.mean for c, d in changes.items() if d and d.mean < -MOST_LOSS}
    return found


def losing_rows(comparison: Comparison) -> list[list[str]]:
    """Arm, and the classes that lose more than 1 AP to the base arm, in percent."""
    return [
        [arm, ", ".join(f"{c} {percentage(d, signed=True)}" for c, d in classes.items()) or "none"]
        for arm, classes in losing_classes(comparison).items()
    ]


def short_arms(comparison: Comparison) -> dict[str, float]:
    """Arms that made fewer than eight passes over the union of target and sources, and how many."""
    passes = comparison.about.get("passes", {})
    return {
        arm: made["union"]
        for arm, made in passes.items()
        if arm in comparison.arms and made["union"] < LEAST_PASSES
    }


def short_line(comparison: Comparison) -> str | None:
    """A warning where an arm is trained too shortly; None where none is."""
    short = short_arms(comparison)
    if not short:
        return None
    least = min(short.values())
    who = "every arm" if len(short) == len(comparison.arms) else ", ".join(short)
    return (
        f"Too short: {who} made fewer than {LEAST_PASSES:g} passes over the union of target and "
        f"sources ({least:.1f}), so that curves may still rise and arms change places."
    )
