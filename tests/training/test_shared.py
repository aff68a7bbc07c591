"""Trainings of two processes: the losses of one process, one writer, kills, errors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from relabel.align.job import AlignJob
from relabel.align.settings import PipelineSettings
from relabel.cli import main
from relabel.errors import ConfigError, StageError
from relabel.files.tensors import read_tensors
from relabel.training import loop, shared
from relabel.workspace import ranks
from relabel.workspace.cores import reading_threads
from tests.builders.ranks import as_rank
from tests.builders.shared_trainings import (
    NAMES,
    pieces,
    prepare,
    specialist_arguments,
    train,
    under_torchrun,
)

# Of each loss of each step. Most of a step is in float64, but boxes come from files in float32.
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


@pytest.mark.slow
def test_norms_dropout_means_and_gradients_are_those_of_the_whole_batch(of_two: Path) -> None:
    whole, parts = pieces(), json.loads((of_two / "pieces.json").read_text())
    assert whole.keys() == parts.keys()
    for name, expected in whole.items():
        assert_near(parts[name], expected, name)


def assert_near(found: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        expected, found = list(expected.items()), list(found.items())
        assert [k for k, _ in found] == [k for k, _ in expected], where
        expected, found = [v for _, v in expected], [v for _, v in found]
    if isinstance(expected, list) and not _numbers(expected):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_near(one, other, f"{where} {i}")
    elif expected is None:
        assert found is None, where
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=where)


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(v, int | float) for v in values)


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_same_command_resumes(folder: Path) -> None:
    arguments = specialist_arguments(folder, folder / "killed")
    done = under_torchrun("kill", "3", *arguments)
    assert done.returncode != 0
    assert said(done.stderr) in (
        ["error: another process of the command ended. The same command resumes, also with another "
         "number of processes."],
        ["interrupted; the same command resumes"],
    )  # fmt: skip
    assert (folder / "killed" / "checkpoint").exists()
    # Where a step before the last checkpoint came again, it would be an error.
    done = under_torchrun("raise", "1", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    with pytest.raises(SystemExit) as ended:
        main(specialist_arguments(folder, folder / "alone"))
    assert ended.value.code == 0
    two, one = (read_tensors(folder / k / "model.safetensors") for k in ("killed", "alone"))
    assert two.keys() == one.keys()
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-3, atol=1e-4, msg=name)
    assert not (folder / "killed" / "checkpoint").exists()


@pytest.mark.slow
def test_what_goes_wrong_in_one_rank_is_told_and_ends_all(folder: Path) -> None:
    done = under_torchrun("raise", "2", *specialist_arguments(folder, folder / "raised"))
    assert done.returncode != 0
    assert said(done.stderr)[0] == "error: step 2 of rank 1"
    done = under_torchrun("no", "0", "train-specialist", "nowhere", "--data", "fine=here:coco")
    assert done.returncode != 0
    assert len(said(done.stderr)) == 1 and "nowhere" in said(done.stderr)[0]


def said(stderr: str) -> list[str]:
    """What relabel says, without the launcher's lines."""
    return [line[9:] for line in stderr.splitlines() if line.startswith("relabel: ")]


@pytest.fixture
def of_four() -> Iterator[None]:
    """This process is rank 1 of 4, two of them on this machine, and trains."""
    with as_rank(1, 4, here=2):
        yield


@pytest.mark.parametrize(
    ("given", "rank", "count", "kept"),
    [
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, 2, 4, False),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, 0, 1, False),
        ({"RANK": "1", "WORLD_SIZE": "", "LOCAL_RANK": "1"}, 0, 1, True),  # of another program
        ({"RANK": "1", "WORLD_SIZE": "4"}, 0, 1, True),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_PORT": ""}, 0, 1, True),
    ],
)
def test_the_launcher_says_which_process_this_is(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], rank: int, count: int, kept: bool
) -> None:
    monkeypatch.setattr(ranks, "_launch", None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"MASTER_ADDR": "here", "MASTER_PORT": "1", **given}.items():
        monkeypatch.setenv(name, value)
    assert ranks.enter() == rank
    assert ranks.launched() == count
    # Outside of trainings a process is alone, and libraries it calls find nothing else.
    assert (ranks.rank(), ranks.world(), ranks.processes_here()) == (0, 1, 1)
    assert ("RANK" in os.environ) == kept


@pytest.mark.usefixtures("of_four")
def test_a_batch_is_shared_evenly_or_refused() -> None:
    assert (ranks.rank(), ranks.world()) == (1, 4)
    assert np.arange(8)[shared.own_part(8)].tolist() == [2, 3]
    assert shared.whole_batch((2, 5)) == (8, 5)
    ranks.check_batch(8)
    with pytest.raises(ConfigError, match=r"lat.batch_size is 6, .* 4 processes .* such as 8"):
        ranks.check_batch(6, "lat")


@pytest.mark.usefixtures("of_four")
def test_align_refuses_a_batch_before_its_first_stage() -> None:
    settings = PipelineSettings()
    settings = replace(settings, lat=replace(settings.lat, batch_size=6))
    one, lat = object(), object()
    job: Any = SimpleNamespace(settings=settings, specialists={"fine": one}, lat=lat, labels={})
    AlignJob.check(job, [one])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"lat.batch_size"):
        AlignJob.check(job, [lat])  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("of_four")
def test_processes_share_a_machines_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relabel.workspace.cores.usable_cores", lambda: 12)
    assert (reading_threads(), reading_threads(5), reading_threads(waiting=True)) == (6, 5, 16)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    shared.check_device(torch.device("cuda"))
    shared.check_device(torch.device("cpu", 0))
    with pytest.raises(ConfigError, match="one GPU for 4 processes"):
        shared.check_device(torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes on this machine and 1 GPUs"):
        shared.check_device(torch.device("cuda"))


@pytest.mark.usefixtures("of_four")
def test_processes_that_see_other_folders_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "gathered", lambda step: [40, step, step, step])
    loop._check_same_step(40, Path("out"))
    with pytest.raises(StageError, match="different steps: 40, 0, 0, 0"):
        loop._check_same_step(0, Path("out"))
