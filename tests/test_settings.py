"""Settings: types carry ranges and choices, all errors are told at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from relabel.errors import ConfigError
from relabel.settings import (
    Count,
    Settings,
    Share,
    describe_type,
    field_types,
    fit_values,
    setting,
    settings_dict,
    settings_from,
    with_preset,
)


@dataclass(frozen=True)
class Example(Settings):
    """Settings of every kind."""

    epochs: float = setting(12.0, "Passes.")
    layers: Count = setting(2, "Layers.")
    flip: bool = setting(True, "Mirror.")
    mode: Literal["a", "b"] = setting("a", "Mode.")
    scales: tuple[Share, ...] = setting((0.5, 1.0), "Scales.")
    batch: Annotated[int, Meta(ge=1)] | Literal["auto"] = setting("auto", "Batch.")
    tau: Annotated[float, Meta(ge=-1, lt=1)] = setting(0.0, "Cosine.")
    name: str = setting("", "Name.")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"epocs": 3}, r"unknown setting 'epocs' \(did you mean 'epochs'\?\)"),
        ({"epochs": "ten"}, "epochs is 'ten' and must be a number"),
        ({"epochs": True}, "epochs is True and must be a number"),
        ({"epochs": float("nan")}, "epochs is nan and must be a number"),
        ({"epochs": None}, "epochs is None and must be a number"),
        ({"layers": 2.5}, "layers is 2.5 and must be a whole number of 0 or more"),
        ({"layers": True}, "must be a whole number"),
        ({"layers": -1}, "layers is -1 and"),
        ({"flip": 1}, "flip is 1 and must be true or false"),
        ({"mode": "c"}, "mode is 'c' and must be a or b"),
        ({"scales": 3}, "must be a list of values, each a number from 0 to 1"),
        ({"scales": [0.5, 1.5]}, r"scales is \[0.5, 1.5\]"),
        ({"batch": [1]}, "must be a whole number of 1 or more, or auto"),
        ({"batch": 0}, "batch is 0 and"),
        ({"tau": 1.0}, "tau is 1.0 and must be a number from -1 to below 1"),
    ],
)
def test_what_does_not_fit(table: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"^\[example\]: .*{expected}"):
        settings_from(Example, table, where="[example]")


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from(Example, {"epocs": 3, "layers": -1, "mode": "c"}, where="x")
    text = str(caught.value)
    assert text.count(";") == 2 and all(k in text for k in ("'epocs'", "layers is", "mode is"))
    with pytest.raises(ConfigError, match=r"layers is -1.*; tau is 2"):
        Example(layers=-1, tau=2)
    with pytest.raises(ConfigError, match="layers is -2"):
        replace(Example(), layers=-2)


def test_whole_numbers_and_lists_become_what_the_fields_hold() -> None:
    for made in (
        settings_from(Example, {"epochs": 3, "scales": [0, 1], "batch": 4}, where="x"),
        Example(3, scales=[0, 1], batch=4),  # type: ignore[arg-type]
    ):
        assert repr(made.epochs) == "3.0" and made.scales == (0.0, 1.0) and made.batch == 4
        assert repr(settings_dict(made)["scales"]) == "[0.0, 1.0]"
    assert settings_dict(Example())["epochs"] == 12.0


def test_texts_of_the_command_line() -> None:
    texts = {"epochs": "3", "flip": "false", "scales": "0.5, 1", "batch": "4", "name": "'a b'"}
    fitted, wrong = fit_values(Example, texts, text=True)
    assert not wrong
    assert fitted == {
        "epochs": 3.0,
        "flip": False,
        "scales": (0.5, 1.0),
        "batch": 4,
        "name": "a b",
    }
    assert fit_values(Example, {"scales": "[0,1]", "batch": "auto"}, text=True)[0] == {
        "scales": (0.0, 1.0),
        "batch": "auto",
    }
    wrong = fit_values(Example, {"layers": "2.5", "flip": "maybe", "name": "3"}, text=True)[1]
    assert [w.split()[0] for w in wrong] == ["layers", "flip"]


def test_presets_fill_in_what_is_left_at_its_default() -> None:
    made = with_preset(Example(layers=5), {"layers": 7, "epochs": 1.0})
    assert (made.layers, made.epochs) == (5, 1.0)


def test_types_in_words() -> None:
    above = Annotated[float, Meta(gt=0)]
    assert describe_type(above) == "a number above 0"
    assert describe_type(Annotated[float, Meta(gt=0, le=1)]) == "a number above 0, up to 1"
    pair = Annotated[tuple[above, ...], Meta(min_length=2, max_length=2)]
    assert describe_type(pair) == "a list of 2 values, each a number above 0"
    assert describe_type(field_types(Example)["name"]) == "text"
