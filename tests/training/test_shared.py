"""Trainings of two processes: the losses of one process, one writer, kills, errors.

Sums are taken in another order, so that losses agree to the last digits and not to the bit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders.shared_trainings import NAMES, prepare, train, under_torchrun

# Of each loss of each step. In float32 the sums of a step differ by 1e-7, and an Adam step makes
# more of that where a gradient is next to 0.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def of_two(folder: Path) -> Path:
    """The losses of all trainings in two processes, where only the first may write."""
    done = under_torchrun("curves", folder, folder / "two", *NAMES)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "two"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_have_the_losses_and_files_of_one(
    folder: Path, of_two: Path, name: str
) -> None:
    one = train(name, folder, folder / "one")
    two = json.loads((of_two / f"{name}.json").read_text())
    assert len(one) > 2
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=1e-7)
    files = [
        sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
        for root in (folder / "one" / name, of_two / name)
    ]
    assert files[0] == files[1] and "model.safetensors" in files[0]
