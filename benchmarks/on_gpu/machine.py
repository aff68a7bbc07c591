"""What the machine has."""

from __future__ import annotations

import subprocess

from benchmarks.on_gpu import Measured, Work


def card(_work: Work) -> Measured:
    """Name, memory, driver and CUDA of the GPU that sections use; nothing where there is none."""
    import torch

    if not torch.cuda.is_available():
        return Measured()
    return Measured(
        {
            "card": torch.cuda.get_device_name(),
            "memory": torch.cuda.get_device_properties(0).total_memory,
            "driver": _driver(),
            "cuda": torch.version.cuda,
        }
    )


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.check_output(query, text=True, timeout=20).splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
