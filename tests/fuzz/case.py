"""One damaged input with the command that reads it, made from (seed, number) alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.builders.datasets import write_image
from tests.fuzz.mutations.pick import damage
from tests.fuzz.subjects import SUBJECTS
from tests.fuzz.subjects.base import DATA, OUT, OUTSIDE, Subject

SECRET_COLOUR = (1, 254, 2)


@dataclass(frozen=True)
class Case:
    """What is run.

    Attributes:
        args: of ``relabel``, with paths relative to the folder of the case.
        damage: (kind, what was done) of each change.
    """

    number: int
    subject: Subject
    args: list[str]
    damage: list[tuple[str, str]] = field(default_factory=list)

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.damage}


def draw(seed: int, number: int) -> tuple[Random, Subject, list[str]]:
    """The generator of a case's randomness, its subject and its command."""
    rng = Random(f"{seed}:{number}")
    subject = rng.choices(SUBJECTS, [subject.weight for subject in SUBJECTS])[0]
    return rng, subject, subject.commands(rng)


def healthy(subject: Subject, folder: Path) -> Path:
    """A healthy input of the subject, written once."""
    root = folder / subject.name / DATA
    if not root.exists():
        root.mkdir(parents=True)
        root.rmdir()  # some builders make it themselves
        subject.build(root)
    return root


def make_case(seed: int, number: int, models: Path, folder: Path) -> Case:
    """Write the damaged input of a number below ``folder``.

    Args:
        models: where healthy inputs are kept.
    """
    rng, subject, args = draw(seed, number)
    data, outside = folder / DATA, folder / OUTSIDE
    shutil.copytree(healthy(subject, models), data)
    write_image(outside / "secret.jpg", 64, 48, SECRET_COLOUR)
    (folder / OUT).mkdir()
    changes = rng.choices([1, 2, 3, 4], [70, 20, 7, 3])[0]
    done = [damage(rng, data, outside) for _ in range(changes)]
    return Case(number, subject, args, done)
