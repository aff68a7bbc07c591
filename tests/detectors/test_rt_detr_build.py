"""RT-DETRv2 made from a whole checkpoint, what cannot be loaded, and what settings mean for it."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relabel.align.settings import PipelineSettings, stage_settings
from relabel.detectors.load import load_detector
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, DataError
from relabel.lat.features import FrozenFeatures
from relabel.lat.settings import LatSettings
from relabel.settings import settings_dict
from tests.builders.detectors import CPU, learn, losses, new_rt_detr, same, target


def test_a_whole_checkpoint_loads_with_new_class_heads(
    rt_detr: SpecialistSettings, whole: Path, tmp_path: Path
) -> None:
    from transformers import RTDetrV2ForObjectDetection

    theirs = RTDetrV2ForObjectDetection.from_pretrained(whole).model
    trainable = new_rt_detr(replace(rt_detr, rtdetr_model=str(whole), frozen_stride=4))
    ours: Any = trainable.model.net
    weights = {
        k.replace("module.", "").replace("backbone.encoder.", "backbone."): v
        for k, v in ours.state_dict().items()
    }
    heads = ("class_embed", "enc_score_head")
    for key, value in theirs.state_dict().items():
        # The checkpoint has as many classes, but other ones: its heads must not be kept.
        is_head = any(h in key for h in heads) and key != "denoising_class_embed.bias"
        assert torch.equal(weights[key], value) == (not is_head), key
    bias: Any = ours.enc_score_head.module.bias
    assert torch.sigmoid(bias).tolist() == pytest.approx([0.01] * 3)
    backbone: Any = trainable.model.backbone
    trained = {n for n, p in backbone.named_parameters() if p.requires_grad}
    assert not any("embedder" in n or "stages.0" in n for n in trained)
    assert any("stages.1" in n for n in trained)
    assert trainable.backbone_parameters() >= {
        id(p) for p in backbone.parameters() if p.requires_grad
    }
    # RT-DETR's own pixels are not normalised.
    assert float(backbone.mean.abs().max()) == 0
    learn(losses(trainable, [target([[10, 10, 40, 50]], [2])]))
    images = [np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)]
    before = trainable.detector(CPU).predict(images)
    trainable.save(tmp_path)
    assert same(load_detector(tmp_path, device="cpu").predict(images), before)
    with pytest.raises(ConfigError, match=r"cannot be taken alone.*--set lat.backbone="):
        FrozenFeatures.create(LatSettings(), CPU, tmp_path)


def test_pixels_are_normalised_as_the_checkpoint_says(
    rt_detr: SpecialistSettings, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "normalised"
    shutil.copytree(whole, folder)
    processor = {
        "image_processor_type": "RTDetrImageProcessor",
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.2, 0.25],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    backbone: Any = new_rt_detr(replace(rt_detr, rtdetr_model=str(folder))).model.backbone
    assert backbone.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert backbone.std.flatten().tolist() == pytest.approx([0.2, 0.2, 0.25])


def test_what_cannot_be_loaded_is_one_line_with_a_remedy(
    rt_detr: SpecialistSettings, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json.*rtdetr_v2_r18vd"):
        new_rt_detr(replace(rt_detr, rtdetr_model=str(tmp_path)))
    with pytest.raises(ConfigError, match="is a mobilenet_v2, no rt_detr_v2"):
        new_rt_detr(replace(rt_detr, rtdetr_model=rt_detr.backbone))
    damaged = tmp_path / "damaged"
    shutil.copytree(whole, damaged)
    (damaged / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        new_rt_detr(replace(rt_detr, rtdetr_model=str(damaged)))
    with pytest.raises(ConfigError, match="rtdetr_channels is 30"):
        replace(rt_detr, rtdetr_channels=30)
    new_rt_detr(rt_detr).save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="weights cannot be loaded"):
        load_detector(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"detector": "rt_detr"}')
    with pytest.raises(DataError, match=r"not an RT-DETR checkpoint.*--detector rt-detr"):
        load_detector(tmp_path / "model")
    early = PipelineSettings(specialist=replace(rt_detr, rtdetr_model=str(whole)))
    with pytest.raises(ConfigError, match=r"--set lat\.backbone="):
        early.require_lat_backbone()


def test_fingerprints_hold_what_the_family_uses(rt_detr: SpecialistSettings, whole: Path) -> None:
    plain = SpecialistSettings()
    later = {"detector", "decay"}
    others = ("rtdetr_", "certainty_")
    before = {f.name for f in fields(plain) if not f.name.startswith(others)} - later
    assert set(plain.result_dict()) == before
    assert plain.result_dict() == {k: v for k, v in settings_dict(plain).items() if k in before}
    assert replace(plain, rtdetr_queries=7).result_dict() == plain.result_dict()
    assert replace(plain, decay=0.5).result_dict()["decay"] == 0.5
    built = rt_detr.result_dict()
    assert built["detector"] == "rt-detr"
    assert built["rtdetr_channels"] == 32
    assert "rtdetr_model" not in built
    assert "fpn_channels" not in built
    assert replace(rt_detr, certainty_intervals=7).result_dict() == built
    loaded = stage_settings(replace(rt_detr, rtdetr_model=str(whole)))
    assert "backbone" not in loaded
    assert "rtdetr_channels" not in loaded
    # The same weights at another place are the same settings.
    assert loaded["rtdetr_model"].startswith(f"{whole.name}@")
    preset = replace(SpecialistSettings(), detector="rt-detr", preset="standard").resolved()
    assert (preset.rtdetr_layers, preset.rtdetr_queries, preset.lr) == (6, 300, 1e-4)
    assert SpecialistSettings(preset="standard").resolved().lr == 1e-3
