"""A model's folder on disk: ``model.safetensors`` and ``config.json``, which needs no code to read.

Loading needs neither the hub nor the folder that pretrained weights came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from relabel.workspace.atomic import atomic_path, atomic_write_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def write_model(folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` and ``config.json`` (last, so that it marks completeness)."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().contiguous().cpu() for k, v in weights.items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, str(temporary))
    atomic_write_json(folder / CONFIG, config)
