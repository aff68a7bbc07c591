"""Label maps computed by a classifier's dense pass, on tiny networks and a trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from relabel.backbones.classifiers import match_classes
from relabel.errors import ConfigError
from relabel.multilabel.scores.dense import DenseClassifier
from relabel.multilabel.scores.label_maps import keep_top, region_scores_batch
from relabel.multilabel.settings import LabelMapSettings

CPU = torch.device("cpu")
SEVEN: dict[str, Any] = {"num_labels": 7}
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def _transformers(kind: str) -> nn.Module:
    import transformers as t

    torch.manual_seed(0)
    stages: dict[str, Any] = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
    if kind == "mobilenet_v2":
        config: Any = t.MobileNetV2Config(depth_multiplier=0.35, **SEVEN)
        return t.MobileNetV2ForImageClassification(config)
    if kind == "resnet":
        config = t.ResNetConfig(embedding_size=8, layer_type="basic", **SEVEN, **stages)
        return t.ResNetForImageClassification(config)
    if kind == "convnext":
        return t.ConvNextForImageClassification(t.ConvNextConfig(**SEVEN, **stages))
    if kind == "swin":
        config = t.SwinConfig(
            image_size=96, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=3, **SEVEN
        )
        return t.SwinForImageClassification(config)
    if kind == "dinov2":
        config = t.Dinov2Config(patch_size=16, image_size=64, **SEVEN, **SMALL)
        return t.Dinov2ForImageClassification(config)
    config = t.ViTConfig(patch_size=16, image_size=64, intermediate_size=64, **SEVEN, **SMALL)
    return t.ViTForImageClassification(config)


def _wrap(net: nn.Module, size: int = 96, grid: int = 3, classes: int = 7) -> DenseClassifier:
    settings = LabelMapSettings(image_size=size, grid=grid)
    zero, one = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return DenseClassifier(
        net, settings, CPU, name="tiny", columns=range(classes), mean=zero, std=one
    )


def _pixels(size: int = 96, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def _settle(net: nn.Module) -> None:
    """Statistics and classifier biases that are not at their trivial start."""
    g = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1, generator=g)
        if isinstance(module, nn.Linear) and module.out_features == 7:
            module.weight.data.normal_(0, 1, generator=g)
            module.bias.data.normal_(0, 1, generator=g)


@pytest.mark.parametrize("kind", ["mobilenet_v2", "resnet"])
def test_averaging_networks_have_cells_whose_mean_is_the_global_logit(kind: str) -> None:
    net = _transformers(kind).eval()
    _settle(net)
    maker, pixels = _wrap(net), _pixels()
    dense = maker.dense(pixels)
    assert dense.shape == (2, 7, 3, 3)
    with torch.no_grad():
        own = net(pixel_values=(pixels - 0.5) / 0.5).logits
    assert torch.allclose(dense.mean((2, 3)), own, atol=1e-5)
    assert float(dense.std((2, 3)).max()) > 1e-4  # cells differ
    # A grid finer than the network's map, and one that does not divide it.
    assert _wrap(net, grid=5).dense(pixels).shape == (2, 7, 5, 5)
    assert torch.allclose(_wrap(net, grid=2).dense(pixels).mean((2, 3)), own, atol=1e-5)


def test_convnext_normalises_each_cell() -> None:
    net: Any = _transformers("convnext").eval()
    _settle(net)
    maker, pixels = _wrap(net), _pixels()
    x = (pixels - 0.5) / 0.5
    with torch.no_grad():
        features = net.convnext(x).last_hidden_state
        expected = net.classifier(net.convnext.layernorm(features.permute(0, 2, 3, 1)))
    assert torch.allclose(maker.dense(pixels), expected.permute(0, 3, 1, 2), atol=1e-5)


def test_a_vit_classifies_its_patch_tokens() -> None:
    net: Any = _transformers("vit").eval()
    _settle(net)
    maker, pixels = _wrap(net, grid=6), _pixels()
    x = (pixels - 0.5) / 0.5
    with torch.no_grad():
        tokens = net.vit(x, interpolate_pos_encoding=True).last_hidden_state
        expected = net.classifier(tokens[:, 1:]).transpose(1, 2).reshape(2, 7, 6, 6)
    assert torch.allclose(maker.dense(pixels), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["dinov2", "swin"])
def test_other_transformers_have_cells(kind: str) -> None:
    net: Any = _transformers(kind).eval()
    _settle(net)
    maker, pixels = _wrap(net, grid=3), _pixels()
    with torch.no_grad():
        own = net((pixels - 0.5) / 0.5).logits
        dense = maker.dense(pixels)
        assert dense.shape == (2, 7, 3, 3)
        if kind == "swin":  # the average of its tokens goes into a linear layer
            assert torch.allclose(dense.mean((2, 3)), own, atol=1e-5)
        else:
            tokens = net.dinov2((pixels - 0.5) / 0.5).last_hidden_state[:, 1:]
            cells = net.classifier(torch.cat([tokens, tokens], 2)).view(2, 3, 2, 3, 2, 7)
            expected = cells.mean((2, 4)).permute(0, 3, 1, 2)
            assert torch.allclose(dense, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "vit_b_32"])
def test_torchvision_classifiers_have_cells(name: str) -> None:
    import torchvision

    torch.manual_seed(0)
    more = {"image_size": 96} if name.startswith("vit") else {}
    net = torchvision.models.get_model(name, weights=None, num_classes=7, **more).eval()
    maker, pixels = _wrap(net), _pixels()
    with torch.no_grad():
        own = net((pixels - 0.5) / 0.5)
    dense = maker.dense(pixels)
    assert dense.shape == (2, 7, 3, 3)
    if name in ("resnet18", "efficientnet_b0"):
        assert torch.allclose(dense.mean((2, 3)), own, atol=1e-4)


@pytest.mark.parametrize("kind", ["mobilenet_v2", "convnext", "vit", "dinov2", "swin"])
def test_maps_take_one_pass(kind: str) -> None:
    net = _transformers(kind).eval()
    _settle(net)
    maker, pixels = _wrap(net), _pixels()
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    maps = maker.maps(pixels)
    assert len(passes) == 1
    assert torch.equal(maps, keep_top(maker.dense(pixels), 5))


class _Peak(nn.Module):
    """A classifier of the greatest, not the mean, activation."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 16, stride=16), nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).amax((2, 3)))


def test_a_network_that_does_not_average_has_cells() -> None:
    torch.manual_seed(0)
    net = _Peak().eval()
    maker, pixels = _wrap(net, grid=6), _pixels()
    with torch.no_grad():
        expected = net.head(net.body((pixels - 0.5) / 0.5).permute(0, 2, 3, 1))
    assert torch.allclose(maker.dense(pixels), expected.permute(0, 3, 1, 2), atol=1e-5)


def test_networks_without_averaging_are_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 16, stride=16), nn.Flatten(), nn.Linear(4 * 36, 7))
    with pytest.raises(ConfigError, match="cannot be applied cell by cell"):
        _wrap(net)


def test_bytes_and_fractions_are_the_same_pixels() -> None:
    maker = _wrap(_transformers("mobilenet_v2"))
    pixels = (_pixels() * 255).to(torch.uint8)
    assert torch.equal(maker.dense(pixels), maker.dense(pixels.float() / 255))
    maps = maker.maps(pixels)
    assert maps.shape == (2, 2, 5, 3, 3)
    assert maps.dtype == torch.float32


def test_an_image_does_not_depend_on_its_batch() -> None:
    maker, pixels = _wrap(_transformers("resnet")), _pixels(count=3)
    assert torch.allclose(maker.dense(pixels)[1:2], maker.dense(pixels[1:2]), atol=1e-5)


def test_classes_are_matched_by_key_and_else_by_order() -> None:
    labels = ["background", "n02 cat, house cat", "n01 dog", "bird"]
    assert match_classes(labels, 3, None, name="x") == [1, 2, 3]
    assert match_classes(labels, 2, ["n01", "n02"], name="x") == [2, 1]
    assert match_classes(labels, 3, ["a", "b", "c"], name="x") == [1, 2, 3]
    assert match_classes(["Bird", "tabby, tabby cat"], 1, ["tabby"], name="x") == [1]
    with pytest.raises(ConfigError, match="'x' has 3 classes, the images have 20"):
        match_classes(labels, 20, None, name="x")


def test_a_backbone_without_classifier_is_refused(tmp_path: Path) -> None:
    import transformers as t

    t.MobileNetV2Model(t.MobileNetV2Config(depth_multiplier=0.35)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no trained classification layer"):
        DenseClassifier.create(str(tmp_path), LabelMapSettings(image_size=96), CPU, 2)


def _photos(shared: Path, count: int, size: int) -> tuple[Tensor, list[int]]:
    root = shared / "data" / "imagenet1000"
    folders = sorted(p for p in root.iterdir() if p.is_dir())
    rows = list(range(0, len(folders), len(folders) // count))[:count]
    images = []
    for row in rows:
        with Image.open(next(iter(sorted(folders[row].iterdir())))) as image:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            square = image.convert("RGB").crop((left, top, left + side, top + side))
            images.append(np.array(square.resize((size, size), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), rows


def test_a_trained_mobilenet_finds_its_classes_in_the_cells(shared: Path) -> None:
    from transformers import AutoModelForImageClassification

    name = str(shared / "weights" / "mobilenet_v2_imagenet")
    if not Path(name).is_dir():
        pytest.skip(f"no MobileNetV2 checkpoint at {name}")
    if not (shared / "data" / "imagenet1000").is_dir():
        pytest.skip("no ImageNet photos in the shared data")
    settings = LabelMapSettings(image_size=224, grid=7)
    maker = DenseClassifier.create(name, settings, CPU, 1000)
    assert maker.classes == 1000
    pixels, labels = _photos(shared, 16, 224)
    net = AutoModelForImageClassification.from_pretrained(name, dtype=torch.float32).eval()
    with torch.no_grad():
        own = net(pixel_values=(pixels.float() / 255 - 0.5) / 0.5).logits
    logits = own[:, 1:]  # class 0 is the background
    truth = torch.tensor(labels)
    assert int((logits.argmax(1) == truth).sum()) >= 11  # chance: 1 in 1,000
    dense = maker.dense(pixels)
    assert torch.allclose(dense.mean((2, 3)), logits, atol=1e-3)
    whole = torch.ones(16, 7, 7)
    scores = region_scores_batch(maker.maps(pixels), torch.arange(16), whole, 1000)
    assert int((scores.argmax(1) == truth).sum()) >= 11


def test_the_side_is_the_one_the_classifier_was_trained_at(tmp_path: Path) -> None:
    import transformers as t

    config = t.ViTConfig(patch_size=16, image_size=64, intermediate_size=64, **SEVEN, **SMALL)
    t.ViTForImageClassification(config).save_pretrained(tmp_path)
    t.ViTImageProcessor(size={"height": 80, "width": 80}).save_pretrained(tmp_path)
    for wanted, side in ((0, 80), (96, 96)):
        maker = DenseClassifier.create(str(tmp_path), LabelMapSettings(image_size=wanted), CPU, 7)
        assert maker.image_size == side
