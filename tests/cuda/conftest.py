"""What the tests that need CUDA share. ``RELABEL_CUDA_TESTS_ON=cpu`` tries the tests themselves
where there is no GPU: it says nothing of one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.builders.trainings import detector, world

__all__ = ["detector", "world"]


@pytest.fixture
def device() -> Iterator[str]:
    """The GPU, whose single precision is that of the CPU within the test."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield os.environ.get("RELABEL_CUDA_TESTS_ON", "cuda")
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
