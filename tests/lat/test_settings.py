"""Settings of the transfer: ranges, and parts that can be left out."""

from __future__ import annotations

import pytest

from relabel.errors import ConfigError
from relabel.lat.settings import PARTS, LatSettings
from relabel.settings import settings_dict, settings_from


def test_an_unknown_part_is_one_clear_error() -> None:
    with pytest.raises(ConfigError) as raised:
        LatSettings(without=("geometry", "consenus"))
    assert "there is no part 'consenus' of LAT" in str(raised.value)
    assert "'consensus'" in str(raised.value)  # what was meant


@pytest.mark.parametrize(
    ("name", "value"), [("folds", 0), ("fold_gap", -1), ("target_share", 1.5), ("fusion", "late")]
)
def test_values_outside_their_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} is "):
        LatSettings(**{name: value})  # type: ignore[arg-type]


def test_a_part_is_in_use_unless_it_is_left_out() -> None:
    for part in PARTS:
        left_out = LatSettings(without=(part,))
        assert [p for p in PARTS if not left_out.has(p)] == [part]
    assert not LatSettings(without=("crossfit",)).crossfit
    assert LatSettings().crossfit and not LatSettings(folds=1).crossfit


def test_the_printed_formula_has_none_of_the_parts() -> None:
    paper = LatSettings(preset="paper").resolved()
    assert not any(paper.has(part) for part in PARTS)
    assert paper.folds == 1 and not paper.crossfit and paper.target_share == 0
    # A value that was given stands against the preset.
    assert LatSettings(preset="paper", backbone="mine").resolved().backbone == "mine"


def test_a_cpu_trains_in_single_precision_unless_it_is_told_otherwise() -> None:
    auto, told = LatSettings(), LatSettings(precision="bf16")
    assert (auto.precision_on("cpu"), auto.precision_on("cuda")) == ("fp32", "auto")
    assert told.precision_on("cpu") == "bf16"


def test_settings_come_back_from_json() -> None:
    settings = LatSettings(without=("hiding", "quality"), epochs=2.5)
    assert settings_from(LatSettings, settings_dict(settings), where="here") == settings


def test_there_are_few_of_them() -> None:
    assert len(LatSettings.__dataclass_fields__) <= 25


def test_the_printed_formula_has_nothing_to_leave_out() -> None:
    with pytest.raises(ConfigError, match="no parts that `without` could leave out"):
        LatSettings(preset="paper", without=("geometry",))
