"""Backbones of every kind as feature maps by stride, from tiny random configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from relabel.backbones.extractor import FeatureExtractor, PyramidBackbone, resolve_backbone
from relabel.backbones.folding import fold_batch_norms, pad_in_convolutions
from relabel.errors import ConfigError


def _checkpoint(kind: str, folder: Path) -> str:
    import transformers as t

    torch.manual_seed(0)
    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "mobilenet_v2":
        model = t.MobileNetV2Model(t.MobileNetV2Config(depth_multiplier=0.35))
    elif kind == "resnet":
        model = t.ResNetModel(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1])
        )
    elif kind == "dinov2":
        model = t.Dinov2Model(t.Dinov2Config(patch_size=14, image_size=56, **small))
    elif kind == "dinov2_with_registers":
        model = t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(patch_size=14, image_size=56, **small)
        )
    else:
        model = t.DINOv3ViTModel(
            t.DINOv3ViTConfig(patch_size=16, image_size=64, intermediate_size=64, **small)
        )
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "strides", "size"),
    [
        ("mobilenet_v2", [4, 8, 16, 32], 128),
        ("resnet", [4, 8, 16, 32], 128),
        ("dinov2", [14], 84),
        ("dinov2_with_registers", [14], 84),
        ("dinov3", [16], 96),
    ],
)
def test_maps_have_the_size_their_stride_says(
    kind: str, strides: list[int], size: int, tmp_path: Path
) -> None:
    name = _checkpoint(kind, tmp_path)
    body = FeatureExtractor(resolve_backbone(name), name)
    assert [s for s in body.strides if s >= strides[0]] == strides
    maps = body(torch.rand(2, 3, size, size))
    for stride in strides:
        assert maps[stride].shape == (2, body.channels[stride], size // stride, size // stride)


@pytest.mark.parametrize("kind", ["dinov2_with_registers", "dinov3"])
def test_vit_maps_follow_the_image_not_the_special_tokens(kind: str, tmp_path: Path) -> None:
    """Rolling an image by one patch moves the map: special tokens must not be among the cells."""
    name = _checkpoint(kind, tmp_path)
    body = FeatureExtractor(resolve_backbone(name), name).eval()
    p = body.patch
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 4 * p, 4 * p)
    image[..., p : 2 * p, 2 * p : 3 * p] = torch.rand(3, p, p)
    blank = body(torch.zeros_like(image))[p]
    changed = (body(image)[p] - blank).norm(dim=1)[0]
    assert divmod(int(changed.argmax()), 4) == (1, 2)


def test_a_rebuilt_backbone_needs_no_folder(tmp_path: Path) -> None:
    name = _checkpoint("mobilenet_v2", tmp_path)
    spec = resolve_backbone(name)
    first = FeatureExtractor(spec, name)
    again = FeatureExtractor(spec, None)
    again.load_state_dict(first.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for stride, value in first(x).items():
        assert torch.equal(value, again(x)[stride])


def test_freezing_stops_at_the_stride_and_norms_keep_their_statistics(tmp_path: Path) -> None:
    name = _checkpoint("resnet", tmp_path)
    body = FeatureExtractor(resolve_backbone(name), name)
    body.freeze(4)
    body.train()
    trained = {n for n, p in body.named_parameters() if p.requires_grad}
    assert not any("embedder" in n or "stages.0" in n for n in trained)
    assert any("stages.1" in n for n in trained)
    norms = [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training or m.weight.requires_grad for m in norms)
    body.freeze(None)
    assert not any(p.requires_grad for p in body.parameters())


def test_torchvision_networks_give_their_stages() -> None:
    spec = resolve_backbone("resnet18")
    body = FeatureExtractor(spec, None, pretrained=False)
    assert body.channels == {2: 64, 4: 64, 8: 128, 16: 256, 32: 512}
    maps = body(torch.rand(1, 3, 64, 96))
    assert maps[8].shape == (1, 128, 8, 12)


def test_a_pyramid_makes_strides_a_vit_lacks(tmp_path: Path) -> None:
    name = _checkpoint("dinov3", tmp_path)
    pyramid = PyramidBackbone(FeatureExtractor(resolve_backbone(name), name), [8, 16, 32], 24)
    maps = pyramid(torch.rand(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps.values()] == [
        (24, 8, 8),
        (24, 4, 4),
        (24, 2, 2),
        (24, 1, 1),
    ]


def test_unknown_backbones_are_one_line_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no backbone called 'resnet5'.*resnet50"):
        resolve_backbone("resnet5")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        resolve_backbone(str(tmp_path))


@pytest.mark.parametrize("kind", ["mobilenet_v2", "resnet"])
def test_shortcuts_of_frozen_networks_change_no_value(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    name = _checkpoint(kind, tmp_path)
    net = _with_statistics(AutoModel.from_pretrained(name))
    x = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        before = net(x).last_hidden_state
        norms = sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
        names = list(net.state_dict())
        padded, folded = pad_in_convolutions(net), fold_batch_norms(net)
        after = net(x).last_hidden_state
    assert folded == norms and (padded > 20) == (kind == "mobilenet_v2")
    assert list(net.state_dict()) == names
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


def test_folded_convolutions_still_learn() -> None:
    conv, norm = nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4)
    net = _with_statistics(nn.Sequential(conv, norm))
    x = torch.rand(1, 3, 8, 8)
    net(x).square().sum().backward()
    wanted = [p.grad.clone() for p in conv.parameters() if p.grad is not None]
    net.zero_grad()
    assert fold_batch_norms(net) == 1
    net(x).square().sum().backward()
    found = [p.grad for p in conv.parameters() if p.grad is not None]
    assert len(found) == 2
    for a, b in zip(wanted, found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_norms_that_do_not_follow_a_convolution_are_left_alone() -> None:
    shared = nn.Conv2d(3, 3, 1)
    net = nn.Sequential(nn.BatchNorm2d(3), shared, nn.ReLU(), nn.BatchNorm2d(3), shared).eval()
    assert fold_batch_norms(net) == 0


def _with_statistics(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return net.eval()
