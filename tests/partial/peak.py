"""The peak of what tensors hold at once, counted operation by operation."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Within the block: ``total``, the largest sum of floats that results held at once, and
    ``largest``, the floats of the largest single one. What was there before does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.largest = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _is_tensor(t)}
        result = func(*args, **(kwargs or {}))
        self._live = {k: v for k, v in self._live.items() if not v[0].expired()}
        for tensor in filter(_is_tensor, tree_leaves(result)):
            storage = tensor.untyped_storage()
            if storage._cdata in given or storage._cdata in self._live:
                continue
            self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes() // 4)
            self.largest = max(self.largest, storage.nbytes() // 4)
        self.total = max(self.total, sum(n for _, n in self._live.values()))
        return result


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
