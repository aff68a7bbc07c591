"""Progress on stderr: bars on a terminal, a plain line now and then elsewhere.

rich is imported when the first bar is drawn on a terminal; NO_COLOR is honoured by it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from relabel.errors import Problems, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

PLAIN_INTERVAL = 10.0  # seconds between the lines of one bar off a terminal
_lock = threading.RLock()
_live: RichProgress | None = None
_bars_open = 0


class Progress:
    """One bar. Made by `progress`; `update` may be called from any thread."""

    def __init__(
        self,
        label: str,
        total: int | None = None,
        *,
        unit: str = "it",
        rate_unit: str | None = None,
        initial: int = 0,
    ) -> None:
        self.label = shown(label)
        self.total = total
        self.unit = unit
        self.rate_unit = rate_unit or unit
        self.initial = initial
        self.done = initial
        self.fields: dict[str, Any] = {}
        self.started = time.monotonic()

    def update(self, n: int = 1, **fields: Any) -> None:
        """Advance by ``n`` and show ``fields`` (numbers or text) beside the count.

        A field called ``rate`` takes the place of the measured rate; it is in ``rate_unit``/s.
        """
        with _lock:
            self.done += n
            self.fields.update(fields)
            self._show()

    def _show(self) -> None:
        """Draw; nothing when quiet."""

    def _close(self, failed: bool) -> None:
        """Draw for the last time."""

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def describe_rate(self) -> str:
        rate = self.fields.get("rate")
        unit = self.rate_unit
        if rate is None:
            unit = self.unit
            if self.done <= self.initial or self.elapsed <= 0:
                return ""
            rate = (self.done - self.initial) / self.elapsed
        if 0 < rate < 1:
            return f"{1 / rate:.1f} s/{unit}"
        return f"{rate:.1f} {unit}/s"

    def describe_eta(self) -> str:
        if self.total is None or self.done <= self.initial or self.done >= self.total:
            return ""
        left = self.elapsed / (self.done - self.initial) * (self.total - self.done)
        return f"ETA {_clock(left)}"

    def describe_fields(self) -> list[str]:
        return [
            shown(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
            for key, value in self.fields.items()
            if key != "rate"
        ]


class _PlainProgress(Progress):
    """Lines such as ``Training fine: 120/1200 (10%), 12.3 it/s, ETA 1:30, loss 0.31``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._next = self.started + PLAIN_INTERVAL

    def _show(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PLAIN_INTERVAL
            _write_line(self._line(self.describe_eta()))

    def _close(self, failed: bool) -> None:
        last = "stopped" if failed else f"took {_clock(self.elapsed)}"
        _write_line(self._line(last))

    def _line(self, last: str) -> str:
        count = f"{self.done}"
        if self.total is not None:
            percent = 100 * self.done // self.total if self.total else 100
            count = f"{self.done}/{self.total} ({percent}%)"
        parts = [count, self.describe_rate(), last, *self.describe_fields()]
        return f"{self.label}: " + ", ".join(p for p in parts if p)


class _RichBar(Progress):
    """A bar of the live display that all bars share."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._live = _open_live()
        self._task = self._live.add_task(
            self.label, total=self.total, completed=self.done, text="", eta=""
        )

    def _show(self) -> None:
        parts = [self.describe_rate(), self.describe_eta(), *self.describe_fields()]
        text = "  ".join(p for p in parts if p)
        self._live.update(self._task, completed=self.done, text=text)

    def _close(self, failed: bool) -> None:
        parts = ["stopped" if failed else f"took {_clock(self.elapsed)}", self.describe_rate()]
        text = "  ".join(p for p in [*parts, *self.describe_fields()] if p)
        self._live.update(self._task, completed=self.done, text=text)
        self._live.stop_task(self._task)
        _close_live()


@contextmanager
def progress(
    label: str,
    total: int | None = None,
    *,
    unit: str = "it",
    rate_unit: str | None = None,
    initial: int = 0,
    quiet: bool = False,
) -> Iterator[Progress]:
    """A progress bar for the block, on stderr.

    Args:
        label: what is being done, such as ``Training fine``.
        total: how many units there are; None where that is not known.
        unit: of the count, such as ``it``, ``images`` or ``MB``.
        rate_unit: of a ``rate`` field given to `Progress.update`; default ``unit``.
        initial: units done by an earlier run; they count as done, but not for rate and ETA.
        quiet: draw nothing.

    >>> with progress("Training fine", total=1200, quiet=True) as bar:
    ...     bar.update(1, loss=0.3, rate=12.0)
    """
    kind = Progress if quiet else _RichBar if on_terminal() else _PlainProgress
    bar = kind(label, total, unit=unit, rate_unit=rate_unit, initial=initial)
    failed = True
    try:
        yield bar
        failed = False
    finally:
        with _lock:
            bar._close(failed)


def message(text: str, *, quiet: bool = False) -> None:
    """Print a line to stderr, above the bars where there are any; see `relabel.errors.shown`."""
    if quiet:
        return
    text = shown(text)
    with _lock:
        if _live is not None:
            _live.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            _write_line(text)


def tell_problems(problems: Problems, quiet: bool = False) -> None:
    """List on stderr what was skipped (also when quiet), and the warnings."""
    for line in problems.lines():
        message(line, quiet=quiet and line.startswith("warning: "))


def on_terminal() -> bool:
    """True if stderr is a terminal that can move its cursor."""
    stream = sys.stderr
    return (
        stream is not None
        and stream.isatty()
        and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    )


def console() -> Console:
    """A rich console on stderr, for tables and reports of a command."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _open_live() -> RichProgress:
    global _live, _bars_open
    with _lock:
        if _live is None:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as RichProgress

            _live = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=console(),
            )
            _live.start()
        _bars_open += 1
        return _live


def _close_live() -> None:
    global _live, _bars_open
    _bars_open -= 1
    if _bars_open == 0 and _live is not None:
        _live.stop()
        _live = None


def _write_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    """1:05, 12:30, 2:03:00."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours}:{minutes:02d}:{whole % 60:02d}"
    return f"{minutes}:{whole % 60:02d}"
