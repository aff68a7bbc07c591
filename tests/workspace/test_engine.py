"""The engine without Ray: it is asked for nothing, and says how to get it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import requires
from pathlib import Path

import pytest

from relabel.errors import ConfigError
from relabel.settings import Runtime
from relabel.workspace.engine import Make, make_in_order, make_shards, require_engine, workers
from relabel.workspace.stage import Shards

RAY = Runtime(engine="ray", quiet=True)


def nothing(runtime: Runtime) -> Make[int]:
    def make(todo: Sequence[int]) -> Iterator[int]:
        yield from todo

    return make


def test_installing_relabel_pulls_no_ray() -> None:
    needed = [line for line in requires("relabel") or () if "extra ==" not in line]
    assert any(line.startswith("torch") for line in needed)
    assert not any(line.lower().startswith("ray") for line in needed)


def test_the_local_engine_imports_no_ray() -> None:
    code = (
        "import sys; from tests.workspace.test_engine import Runtime, make_in_order, nothing\n"
        "args = dict(title='', unit='it', what='part')\n"
        "assert list(make_in_order(nothing, [3, 1], Runtime(quiet=True), **args)) == [3, 1]\n"
        "assert 'ray' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_without_ray_every_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    require_engine(Runtime())
    shards = Shards(tmp_path, total=3, size=1)
    for work in (
        lambda: require_engine(RAY),
        lambda: workers(RAY, "cpu"),
        lambda: list(make_shards(nothing, shards, [0], RAY, title="")),
        lambda: list(make_in_order(nothing, [0], RAY, title="", unit="it", what="part")),
    ):
        with pytest.raises(ConfigError, match=r"pip install 'relabel\[ray\]'"):
            work()


def test_nothing_to_do_needs_no_engine(tmp_path: Path) -> None:
    shards = Shards(tmp_path, total=3, size=1)
    assert list(make_shards(nothing, shards, [], RAY, title="")) == []
