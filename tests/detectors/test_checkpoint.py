"""Checkpoints of all families: what they hold, and what is said of damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.load import load_detector
from relabel.detectors.training import new_trainable
from relabel.errors import DataError
from relabel.settings import settings_dict
from tests.builders.detectors import FAMILIES, tiny_detector

SPACE = LabelSpace.from_names("two", ["a", "b"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_damaged_checkpoint_is_one_line_with_file_and_remedy(tmp_path: Path, family: str) -> None:
    settings = tiny_detector(tmp_path / "backbone", family)
    model = tmp_path / "model"
    new_trainable(SPACE, settings).save(model)
    config = json.loads((model / "config.json").read_text())
    assert list(config) == ["detector", "space", "network", "settings"]
    assert config["space"] == SPACE.to_dict()
    assert config["settings"] == json.loads(json.dumps(settings_dict(settings)))

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            load_detector(model, device="cpu")
        assert "relabel train-specialist" in (caught.value.remedy or "")

    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    refused(r"model\.safetensors: weights cannot be loaded")
    (model / "model.safetensors").unlink()
    refused(r"model\.safetensors: weights cannot be loaded")
    (model / "model.safetensors").write_bytes(weights)
    more = config | {"space": LabelSpace.from_names("three", ["a", "b", "c"]).to_dict()}
    (model / "config.json").write_text(json.dumps(more))
    refused(r"model\.safetensors: weights cannot be loaded")
    for name in ("space", "network", "settings"):
        (model / "config.json").write_text(json.dumps({k: config[k] for k in config if k != name}))
        refused(rf"config\.json: not an? .* checkpoint: KeyError\('{name}'\)")
    (model / "config.json").write_text(json.dumps(config | {"network": 7}))
    refused(r"config\.json: not an? .* checkpoint")
    (model / "config.json").write_text(json.dumps(config))
    assert load_detector(model, device="cpu").space == SPACE
