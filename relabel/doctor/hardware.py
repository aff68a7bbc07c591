"""One line on the machine, for the head of a result."""

from __future__ import annotations

import platform
from collections import Counter
from contextlib import suppress
from pathlib import Path

from relabel.workspace.cores import usable_cores


def describe_hardware() -> str:
    """The GPUs that torch can use, else the processor, with the cores this process may use.

    For example ``AMD EPYC 9B14, 2 cores`` or ``NVIDIA H200; AMD EPYC 9654, 16 cores``.
    """
    cores = usable_cores()
    processor = f"{_processor()}, {cores} core{'s' if cores != 1 else ''}"
    return "; ".join([*_gpus(), processor])


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = Counter(map(torch.cuda.get_device_name, range(count)))
    return [name if n == 1 else f"{n} × {name}" for name, n in names.items()]
