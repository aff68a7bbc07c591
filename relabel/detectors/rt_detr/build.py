"""RT-DETRv2 on one of our backbones, or as a whole pretrained checkpoint with new class heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from relabel.backbones.extractor import (
    BackboneSpec,
    FeatureExtractor,
    StrideMaps,
    execution_order,
    freeze_until,
    resolve_backbone,
)
from relabel.backbones.views import image_processor, loading, pixel_statistics
from relabel.detectors.family import Family
from relabel.detectors.rt_detr.model import OwnBackbone, PretrainedBackbone, RTDetr
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError

STRIDES = (8, 16, 32)
# Share of positives that a new class head expects at first, as published.
_PRIOR = 0.01
# Of a configuration: what does not shape the network, or tells where it came from.
_NOT_KEPT = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "id2label",
    "label2id",
    "dtype",
)


def build_rt_detr(classes: int, settings: SpecialistSettings) -> RTDetr:
    """A model to train: on ``settings.backbone``, or the checkpoint ``settings.rtdetr_model``.

    Raises:
        ConfigError: the backbone or the checkpoint cannot be loaded.
    """
    if settings.rtdetr_model:
        return _load_whole(classes, settings)
    spec = resolve_backbone(settings.backbone)
    body = FeatureExtractor(spec, settings.backbone, pretrained=settings.pretrained)
    body.freeze(settings.frozen_stride)
    return _on_own_backbone(body, _new_config(settings, classes))


def rebuild(classes: int, parts: dict[str, Any]) -> RTDetr:
    """The network that ``parts`` describes, with random weights; needs neither hub nor folder.

    Raises:
        KeyError, TypeError, ValueError: ``parts`` is damaged.
    """
    from transformers import RTDetrV2Config

    config = RTDetrV2Config.from_dict(dict(parts["config"]))
    config.num_labels = classes
    if parts["backbone"] is None:
        return _whole(_network(config), parts["mean"], parts["std"])
    body = FeatureExtractor(BackboneSpec.from_dict(parts["backbone"]), None)
    return _on_own_backbone(body, config)


def restricted_rt_detr(model: RTDetr, classes: Sequence[int]) -> RTDetr:
    """A copy whose class heads have the rows of ``classes`` only."""
    weights = model.state_dict()
    rows = torch.tensor(list(classes))
    # The embedding of denoising labels ends with a row for "no label".
    of_denoising = torch.tensor([*classes, model.net.config.num_labels])
    for key, value in weights.items():
        if of_classes(key):
            kept = of_denoising if "denoising_class_embed" in key else rows
            weights[key] = value[kept.to(value.device)]
    copy = rebuild(len(classes), model.parts)
    copy.load_state_dict(weights)
    return copy.to(next(model.parameters()).device)


def _new_config(s: SpecialistSettings, classes: int) -> Any:
    from transformers import RTDetrResNetConfig, RTDetrV2Config

    # transformers wants a backbone of its own; this one is replaced at once.
    stand_in = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_indices=[2, 3, 4],  # pyright: ignore[reportCallIssue]
    )
    config = RTDetrV2Config(
        backbone_config=stand_in,
        encoder_in_channels=[8] * len(STRIDES),
        feat_strides=list(STRIDES),
        decoder_in_channels=[s.rtdetr_channels] * len(STRIDES),
        encoder_hidden_dim=s.rtdetr_channels,
        d_model=s.rtdetr_channels,
        encoder_ffn_dim=s.rtdetr_ffn,
        decoder_ffn_dim=s.rtdetr_ffn,
        encoder_attention_heads=s.rtdetr_heads,
        decoder_attention_heads=s.rtdetr_heads,
        decoder_layers=s.rtdetr_layers,
        hidden_expansion=s.rtdetr_expansion,
        num_queries=s.rtdetr_queries,
        num_denoising=s.rtdetr_denoising,
    )
    config.num_labels = classes
    return config


def _network(config: Any) -> Any:
    """transformers' network with random weights: the part with everything but copies of heads."""
    from transformers import RTDetrV2ForObjectDetection

    # Tying the heads to copies that are dropped here fails for a single decoder layer.
    config.tie_word_embeddings = False
    return RTDetrV2ForObjectDetection(config).model


def _on_own_backbone(body: FeatureExtractor, config: Any) -> RTDetr:
    net = _network(config)
    _initialise(net)
    width = config.encoder_hidden_dim
    levels = StrideMaps(body, config.feat_strides, width)
    net.backbone = OwnBackbone(levels)
    net.encoder_input_proj = nn.ModuleList(
        nn.Sequential(nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width))
        for c in levels.channels
    )
    parts = {"config": _kept(config.to_dict()), "backbone": asdict(body.spec)}
    return RTDetr(net, levels.divisor, parts)


def _whole(net: Any, mean: list[float], std: list[float]) -> RTDetr:
    parts = {"config": _kept(net.config.to_dict()), "backbone": None, "mean": mean, "std": std}
    net.backbone = PretrainedBackbone(net.backbone, mean, std)
    return RTDetr(net, max(net.config.feat_strides), parts)


def _load_whole(classes: int, s: SpecialistSettings) -> RTDetr:
    from transformers import AutoConfig, RTDetrV2ForObjectDetection

    name, remedy = s.rtdetr_model, "Give a hub id such as PekingU/rtdetr_v2_r18vd or its folder."
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ConfigError("no config.json in the RT-DETR's folder", file=name, remedy=remedy)
    with loading("RT-DETR", name, remedy):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type != "rt_detr_v2":
            raise ConfigError(f"{name!r} is a {config.model_type}, no rt_detr_v2", remedy=remedy)
        config.num_labels = classes
        config.num_queries = s.rtdetr_queries
        config.num_denoising = s.rtdetr_denoising
        # Images of every size go through, in batches too small for batch statistics.
        config.eval_size = config.anchor_image_size = None
        config.freeze_backbone_batch_norms = True
        report: dict[str, Any] = {}
        if s.pretrained:
            loaded: Any = RTDetrV2ForObjectDetection.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
            net, report = loaded[0].model, loaded[1]
        else:
            net = _network(config)
    wanting = [*report.get("missing_keys", ()), *report.get("mismatched_keys", ())]
    wanting = [k if isinstance(k, str) else k[0] for k in wanting]
    bad = sorted(k for k in wanting if not of_classes(k))
    if bad:
        raise ConfigError(
            f"RT-DETR {name!r} lacks {len(bad)} of the network's weights, such as {bad[0]}",
            remedy=remedy,
        )
    if s.pretrained:
        _new_class_heads(net)
    else:
        _initialise(net)
    mean, std = _normalisation(name)
    resnet = net.backbone.model
    if s.pretrained and s.frozen_stride > 0:
        freeze_until(resnet, execution_order(resnet), s.frozen_stride)
    return _whole(net, mean, std)


def of_classes(key: str) -> bool:
    """Whether a weight has a row per class."""
    return any(part in key for part in ("class_embed", "enc_score_head"))


def _normalisation(name: str) -> tuple[list[float], list[float]]:
    """Mean and deviation of pixels in [0, 1] that a checkpoint expects; RT-DETR's own: none."""
    processor = image_processor(name)
    if not getattr(processor, "do_normalize", False):
        return [0.0] * 3, [1.0] * 3
    mean, std = processor.image_mean, processor.image_std
    return [*pixel_statistics(mean, name)], [*pixel_statistics(std, name)]


def _initialise(net: Any) -> None:
    """The published initialisation. transformers draws norms' weights near 0 as if they were
    linear layers, which a training from scratch does not get over."""
    kept = {
        id(child)
        for layer in net.decoder.layers
        for child in layer.encoder_attn.modules()  # starts as published
    }
    for module in net.modules():
        fresh = isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm)
        if fresh and id(module) not in kept:
            module.reset_parameters()  # pyright: ignore[reportCallIssue]
    nn.init.xavier_uniform_(net.enc_output[0].weight)
    for layer in net.decoder.query_pos_head.layers:
        nn.init.xavier_uniform_(layer.weight)
    for projection in net.decoder_input_proj:
        nn.init.xavier_uniform_(projection[0].weight)
    for head in (net.enc_bbox_head, *net.decoder.bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
    _new_class_heads(net)


def _new_class_heads(net: Any) -> None:
    for head in (net.enc_score_head, *net.decoder.class_embed):
        head.reset_parameters()
        nn.init.constant_(head.bias, -math.log((1 - _PRIOR) / _PRIOR))
    if net.config.num_denoising > 0:
        nn.init.normal_(net.denoising_class_embed.weight)
        with torch.no_grad():
            net.denoising_class_embed.weight[-1].zero_()


def _kept(config: Any) -> Any:
    """A configuration's dict without what has no part in the network, at any depth."""
    if isinstance(config, dict):
        return {k: _kept(v) for k, v in config.items() if k not in _NOT_KEPT}
    return config


FAMILY = Family(
    kind="rt_detr",
    title="an RT-DETR",
    retrain="Train it again (relabel train-specialist --detector rt-detr --overwrite).",
    new=build_rt_detr,
    rebuild=lambda classes, _settings, parts: rebuild(classes, parts),
    restrict=restricted_rt_detr,
    # Boxes are fractions of the padded batch.
    sees_padding=True,
)
