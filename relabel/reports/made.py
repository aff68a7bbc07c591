"""By which command, with which versions, when and on what machine something was made."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from relabel import __version__
from relabel.doctor.hardware import describe_hardware
from relabel.process import command_line

PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "numpy", "pillow", "pyarrow")


@dataclass(frozen=True)
class Made:
    """How a result came about.

    Attributes:
        command: the command line, quoted as a shell takes it.
        written: when the page was written, in UTC.
        machine: processor and GPUs.
        versions: of Python, relabel and the packages that results depend on, by name.
        stages: seconds that the stages of a job took, by name, where its log tells.
    """

    command: str
    written: str
    machine: str
    versions: Mapping[str, str]
    stages: Mapping[str, float] = field(default_factory=dict)

    def took(self) -> str:
        """The sum of the stages' seconds, as people read it; empty without."""
        if not self.stages:
            return ""
        whole = round(sum(self.stages.values()))
        hours, minutes, seconds = whole // 3600, whole // 60 % 60, whole % 60
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def made_now(stages: Mapping[str, float] | None = None) -> Made:
    """This process's own command, now and here.

    Args:
        stages: seconds that the stages of the job took.
    """
    versions = {"relabel": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return Made(
        command=command_line(),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=describe_hardware(),
        versions=versions,
        stages=dict(stages or {}),
    )
