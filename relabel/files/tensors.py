"""Weights of unknown origin: tensors only, never code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.errors import DataError
from relabel.files.opening import check_regular, foreign

if TYPE_CHECKING:
    import torch

_DAMAGED = "Download or train the weights again."


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        DataError: missing, not a regular file, cut off, or not safetensors.
    """
    from safetensors.torch import load_file

    check_regular(path, remedy="Check the path.")
    with foreign(path, "a readable safetensors file", remedy=_DAMAGED):
        return load_file(str(path))
    raise AssertionError  # unreachable: the block above returns or raises


def check_model_folder(folder: str | Path) -> None:
    """Whether all files of a local model's folder are regular; what is no folder is passed over.

    Raises:
        DataError: one is a pipe, a socket or a device, which may never end, or cannot be read.
    """
    if Path(folder).is_dir():
        for path in sorted(Path(folder).iterdir()):
            if not path.is_dir():
                check_regular(path, remedy="Copy the model's folder again.")


def read_pickled(path: str | Path) -> Any:
    """What a ``.pth`` file of torch holds, on the CPU, if that is tensors and plain values.

    Raises:
        DataError: missing, not a regular file, damaged, or it holds objects whose loading would run
            code.
    """
    import pickle

    import torch

    check_regular(path, remedy="Check the path.")
    with foreign(path, "a readable file of torch weights", remedy=_DAMAGED):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise DataError(
                "not a torch file of tensors and plain values; loading anything else would run "
                "code from the file",
                file=path,
                remedy="Save its state_dict, or as safetensors.",
            ) from error
    raise AssertionError  # unreachable: the block above returns or raises
