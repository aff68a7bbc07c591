"""A kind of input: how a healthy one is written, and what is run on a damaged one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

# Below the folder of a case: what is damaged, what must not be reached, what is written.
DATA, OUTSIDE, OUT = "data", "outside", "out"


@dataclass(frozen=True)
class Subject:
    """One kind of input.

    Attributes:
        name: for the report.
        build: writes a healthy input into a folder.
        commands: draws the arguments of a command; one that starts with ``call:`` is a function
            of `tests.fuzz.calls`.
        weight: how often it is drawn, among the others.
    """

    name: str
    build: Callable[[Path], object]
    commands: Callable[[Random], list[str]]
    weight: int = 10
