"""Folders of published models whose files are damaged, no files, or would run code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from relabel.backbones.extractor import FeatureExtractor, resolve_backbone
from relabel.backbones.views import transformers_classifier
from relabel.errors import ConfigError, DataError
from tests.builders.blocks import tiny_backbone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_backbone(tmp_path / "model")


def build(folder: Path) -> FeatureExtractor:
    return FeatureExtractor(resolve_backbone(str(folder)), str(folder))


def test_code_of_a_model_is_never_run_nor_asked_about(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks(*_: object) -> str:
        raise AssertionError("a question on the terminal")

    monkeypatch.setattr("builtins.input", asks)
    ran = folder / "ran"
    (folder / "code.py").write_text(
        "from transformers import PretrainedConfig\n"
        f"open({str(ran)!r}, 'w')\nclass Config(PretrainedConfig):\n    model_type = 'strange'\n"
    )
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        build(folder)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        transformers_classifier(str(folder), True, 0, 0.0)
    assert not ran.exists()


@pytest.mark.parametrize(
    "content",
    ["7", "[]", '{"model_type": ["a"]}', "{" * 5000, '{"model_type": "mobilenet_v2", "x": 1'],
)
def test_a_damaged_config_is_one_line(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        build(folder)


def test_weights_cut_off_or_a_pipe_are_one_line(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"cannot be loaded: .*not fully covered"):
        build(folder)
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(DataError, match="a pipe, a socket or a device"):
        build(folder)


@pytest.mark.parametrize("mean", [["a", "b", "c"], [0.5], [float("nan")] * 3, {"r": 1}])
def test_statistics_of_pixels_are_three_numbers(folder: Path, mean: object) -> None:
    file = folder / "preprocessor_config.json"
    row = json.loads(file.read_text())
    file.write_text(json.dumps(row | {"image_mean": mean}))
    with pytest.raises(ConfigError, match=r"image_mean|cannot be loaded"):
        build(folder)
    file.write_text("{")
    with pytest.raises(ConfigError, match="image processor"):
        build(folder)
    file.unlink()
    assert resolve_backbone(str(folder)).mean == (0.485, 0.456, 0.406)
