"""How long a job will take, in words."""

from __future__ import annotations

from collections.abc import Mapping

from relabel.workspace.cores import usable_cores


def spoken(seconds: float) -> str:
    """``40 seconds``, ``12 minutes``, ``3.5 hours``."""
    if seconds < 90:
        count, unit = max(1, round(seconds)), "second"
    elif seconds < 90 * 60:
        count, unit = round(seconds / 60), "minute"
    else:
        hours = seconds / 3600
        return f"{hours:.1f} hours" if hours < 10 else f"{hours:.0f} hours"
    return f"{count} {unit}{'s' * (count != 1)}"


def announced(parts: Mapping[str, float], device: str = "cpu") -> str:
    """A line such as ``about 12 minutes on 2 cores: specialists 7, labels 1, transfer 4``.

    Args:
        parts: seconds by what they are spent on; parts that would read 0 are left out.
        device: torch device type that does the work.
    """
    total = sum(parts.values())
    cores = usable_cores()
    where = f"{cores} core{'s' * (cores != 1)}" if device == "cpu" else device
    divisor, digits = (1, 0) if total < 90 else (60, 1) if total < 20 * 60 else (60, 0)
    if total >= 90 * 60:
        divisor, digits = 3600, 1
    numbers = {name: f"{seconds / divisor:.{digits}f}" for name, seconds in parts.items()}
    shown = [f"{name} {number}" for name, number in numbers.items() if float(number) > 0]
    text = f"about {spoken(total)} on {where}"
    return f"{text}: {', '.join(shown)}" if len(shown) > 1 else text
