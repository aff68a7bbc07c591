"""The errors a user can act on, and the collector that lets a run go on past bad records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]
_JOINERS = "\u200c\u200d"
MIRROR = "relabel-mirror-"
"""How the folder begins that stands for an object store; see `relabel.workspace.mirror`."""
_MIRRORED = re.compile(rf"(?<![^\s'\"=(])/(?:[^\s'\"]*/)?{MIRROR}[^/\s]+/([a-z0-9+.-]+)/")


def shown(text: str) -> str:
    """A text that files had a part in, as it may stand on a terminal or in a report: one line.

    What does not print is written as Python writes it: control characters (which could move the
    cursor or forge lines), marks that reverse the direction of what follows, undecodable bytes. The
    two joiners stay, which Persian, Indian scripts and emoji are spelled with. A path that stands
    for a URL is that URL.

    >>> shown("a\\x1b[2Jb é")
    'a\\\\x1b[2Jb é'
    """
    text = with_urls(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else repr(c)[1:-1] for c in text)


def with_urls(text: str) -> str:
    """A text with URLs in place of the paths that stand for them.

    >>> with_urls("wrote /tmp/relabel-mirror-1-2-0/s3/bucket/run/a.json")
    'wrote s3://bucket/run/a.json'
    """
    return _MIRRORED.sub(r"\1://", text) if MIRROR in text else text


class RelabelError(Exception):
    """An error with a cause outside the program: printed as one line, exit status 1.

    Args:
        message: what is wrong, with the offending value.
        file: the file it was found in.
        record: the record inside the file, such as ``annotation 17`` or ``line 4``.
        remedy: what the user can do about it.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        record: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.message = message
        self.file = None if file is None else str(file)
        self.record = record
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.file, self.record) if part)
        text = f"{where}: {self.message}" if where else self.message
        if self.remedy:
            text = f"{text.rstrip('.')}. {self.remedy}"
        return shown(" ".join(text.split()))


class DataError(RelabelError):
    """A dataset's files are missing, damaged or contradict their format."""


class ConfigError(RelabelError):
    """A setting or a name in relabel.toml or on the command line does not exist or fit."""


class StageError(RelabelError):
    """A stage cannot run or be reused, for example because its inputs changed."""


class BusyError(StageError):
    """Another process is working on the stage or workspace."""


@dataclass(frozen=True)
class Problem:
    """One finding about a dataset's files."""

    severity: Severity
    file: str
    record: str
    message: str

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.file, self.record) if part)
        return f"{where}: {self.message}" if where else self.message


@dataclass
class Problems:
    """Collects what readers find.

    With ``skip_bad=False`` an error raises `DataError` at once; with ``skip_bad=True`` it is
    kept, and the reader leaves the record out and goes on. Warnings never raise. What real
    datasets are full of (boxes partly outside their image, boxes without area) is counted with
    `count` and summarised in one warning per kind.

    Readers call:

    >>> problems = Problems(skip_bad=True)
    >>> problems.error("bbox has a NaN", file="a.json", record="annotation 3", remedy="Fix it.")
    >>> problems.count("clipped to the image")
    >>> problems.summary()
    ['1 box clipped to the image']
    """

    skip_bad: bool = False
    found: list[Problem] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    firsts: dict[str, list[str]] = field(default_factory=dict)

    def error(
        self,
        message: str,
        *,
        file: str | Path,
        record: str = "",
        remedy: str | None = None,
    ) -> None:
        """Report a bad record: raises DataError unless bad records are to be skipped."""
        if not self.skip_bad:
            raise DataError(message, file=file, record=record or None, remedy=remedy)
        text = f"{message.rstrip('.')}. {remedy}" if remedy else message
        self.found.append(Problem("error", str(file), record, text))

    @contextmanager
    def catching(self, file: str | Path) -> Iterator[None]:
        """A `DataError` of the block is reported, as of ``file`` where it names none."""
        try:
            yield
        except DataError as error:
            self.report(error, file)

    def report(self, error: RelabelError, file: str | Path, record: str = "") -> None:
        """Like `error`, with the file and the record where the error names none."""
        self.error(
            error.message,
            file=error.file or file,
            record=error.record or record,
            remedy=error.remedy,
        )

    def warning(self, message: str, *, file: str | Path, record: str = "") -> None:
        self.found.append(Problem("warning", str(file), record, message))

    def count(self, kind: str, n: int = 1, first: Iterable[str] = ()) -> None:
        """Count boxes treated in a harmless, usual way, e.g. ``clipped to the image``.

        Args:
            first: the records of some of them; the first three are kept.
        """
        if n:
            self.counts[kind] = self.counts.get(kind, 0) + int(n)
            kept = self.firsts.setdefault(kind, [])
            kept.extend(islice(first, max(0, 3 - len(kept))))

    def add(self, other: Problems) -> None:
        """Take over what another reader found."""
        self.found += other.found
        for kind, n in other.counts.items():
            self.count(kind, n, other.firsts.get(kind, ()))

    def summary(self, *, records: bool = False) -> list[str]:
        """A line per kind that was counted, with the first records of it if these are wanted."""
        lines = []
        for kind, n in self.counts.items():
            first = ", ".join(self.firsts.get(kind, ())) if records else ""
            more = ", ..." if n > len(self.firsts.get(kind, ())) else ""
            lines.append(
                f"{n} box{'es' * (n != 1)} {kind}" + (f" ({first}{more})" if first else "")
            )
        return lines

    def lines(self, most: int = 20) -> list[str]:
        """What was found, to print: every record skipped, warnings with their counts.

        Args:
            most: of the warnings about single places at most this many.
        """
        skipped = [f"skipped: {problem}" for problem in self.errors]
        warnings = [f"warning: {p}" for p in self.found if p.severity == "warning"]
        more = len(warnings) - most
        if more > 0:
            warnings[most:] = [f"warning: {more} more; `relabel datasets validate` lists them"]
        return [*skipped, *warnings, *(f"warning: {text}" for text in self.summary())]

    @property
    def errors(self) -> list[Problem]:
        return [p for p in self.found if p.severity == "error"]

    @property
    def ok(self) -> bool:
        return not self.errors


def near_matches(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'epochs'?)``, or nothing where no known name is near."""
    import difflib  # only needed once something is wrong

    lowered = {o.lower(): o for o in known}
    near = [lowered[n] for n in difflib.get_close_matches(name.lower(), list(lowered), n=3)]
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy naming near matches of ``name`` and everything known."""
    options = list(known)
    near = near_matches(name, options).strip(" ()")
    text = f"{near[0].upper()}{near[1:]} " if near else ""
    shown = ", ".join(options[:30]) + (", ..." if len(options) > 30 else "")
    return f"{text}Known: {shown or 'none'}."
