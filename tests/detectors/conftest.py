"""RT-DETRv2 small enough to be trained in a test, on a backbone of ours and as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from relabel.detectors.settings import SpecialistSettings
from tests.builders.detectors import tiny_detector


@pytest.fixture(scope="session")
def rt_detr(tmp_path_factory: pytest.TempPathFactory) -> SpecialistSettings:
    return tiny_detector(
        tmp_path_factory.mktemp("backbone"),
        "rt-detr",
        steps=150,
        lr=3e-3,
        rtdetr_queries=30,
        rtdetr_denoising=20,
    )


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random RT-DETRv2 of two classes as a transformers checkpoint."""
    import transformers

    t: Any = transformers
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(1)
    resnet = t.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_indices=[2, 3, 4],
    )
    config = t.RTDetrV2Config(
        backbone_config=resnet,
        encoder_in_channels=[8, 16, 16],
        decoder_in_channels=[16, 16, 16],
        encoder_hidden_dim=16,
        d_model=16,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        decoder_layers=2,
        num_queries=40,
        anchor_image_size=[640, 640],
        num_labels=3,
    )
    t.RTDetrV2ForObjectDetection(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "RTDetrImageProcessor", "do_normalize": False})
    )
    return folder
