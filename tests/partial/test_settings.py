"""What a training of completion depends on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from relabel.errors import ConfigError
from relabel.partial.methods.registry import METHODS
from relabel.partial.settings import CompletionSettings, Method
from relabel.settings import choices_of


def test_every_method_that_can_be_set_is_there() -> None:
    assert set(choices_of(Method)) == set(METHODS)


@pytest.mark.parametrize(
    ("method", "name", "counts"),
    [
        ("hst", "width", True),
        ("bce", "width", False),
        ("sst", "embeddings", True),
        ("sr", "embeddings", False),
        ("hst", "without", True),
        ("sst", "without", False),
        ("bce", "backbone_lr_scale", False),
        ("bce", "held_back", False),
        ("bce", "lr", True),
    ],
)
def test_a_result_depends_on_what_the_method_reads(method: str, name: str, counts: bool) -> None:
    settings = CompletionSettings(method=method)  # type: ignore[arg-type]
    assert (name in settings.result_dict()) == counts


def test_a_trained_backbone_has_a_rate() -> None:
    settings = replace(CompletionSettings(method="bce"), frozen=False)
    assert "backbone_lr_scale" in settings.result_dict()


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="ist, cst, dtl or plain"):
        CompletionSettings(without=("cstt",))  # type: ignore[arg-type]


def test_settings_are_there_without_torch() -> None:
    code = "import relabel.partial.settings, sys; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
