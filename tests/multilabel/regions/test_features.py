"""Patch features against computations by hand, with tiny random networks and one real one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from relabel.errors import ConfigError
from relabel.multilabel.grid import square
from relabel.multilabel.regions.features import PatchFeatures, _key_projection
from relabel.multilabel.settings import MaskCutSettings

CPU = torch.device("cpu")
SHARED = Path(os.environ.get("RELABEL_SHARED", Path(__file__).resolve().parents[3] / "shared"))
MOBILENET = SHARED / "weights" / "mobilenet_v2_imagenet"
KINDS = {"vit": 16, "dinov2": 14, "dinov2_with_registers": 14, "dinov3_vit": 16}
SMALL: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}


def _model(kind: str) -> Any:
    import transformers as t

    torch.manual_seed(0)
    if kind == "vit":
        return t.ViTModel(t.ViTConfig(patch_size=16, image_size=32, intermediate_size=32, **SMALL))
    if kind == "dinov2":
        return t.Dinov2Model(t.Dinov2Config(patch_size=14, image_size=28, **SMALL))
    if kind == "dinov2_with_registers":
        return t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(patch_size=14, image_size=28, **SMALL)
        )
    return t.DINOv3ViTModel(
        t.DINOv3ViTConfig(
            patch_size=16, image_size=32, intermediate_size=32, num_register_tokens=4, **SMALL
        )
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        model = _model(kind)
        for parameter in model.parameters():  # what starts at zero would hide mistakes
            nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
        made[kind] = str(folder)
    return made


def _create(folder: str, side: int, **more: Any) -> PatchFeatures:
    settings = MaskCutSettings(backbone=folder, image_size=side, precision="fp32", **more)
    return PatchFeatures.create(settings, CPU)


def _by_hand(folder: str, x: Tensor, layer: int) -> tuple[Tensor, Tensor, int]:
    """(keys [B, T, d] from the block's input, last hidden state [B, T, d], special tokens)."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    more = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}
    blocks = [m for n, m in model.named_modules() if n.rpartition(".")[2] == "attention"]
    block = blocks[layer]
    given: dict[str, Tensor] = {}

    def look(_module: nn.Module, args: Any, kwargs: Any) -> None:
        given["x"] = args[0] if args else kwargs["hidden_states"]

    block.register_forward_pre_hook(look, with_kwargs=True)
    with torch.no_grad():
        hidden = model(x, **more).last_hidden_state
    weight = next(p for n, p in block.named_parameters() if n.split(".")[-2:-1] == ["k_proj"])
    bias = dict(block.named_parameters()).get("k_proj.bias")
    keys = given["x"] @ weight.T + (0 if bias is None else bias)
    return keys.detach(), hidden, 1 + getattr(model.config, "num_register_tokens", 0)


@pytest.mark.parametrize("layer", [-1, 0])
@pytest.mark.parametrize("kind", list(KINDS))
def test_keys_are_those_of_the_layers_input(kind: str, layer: int, folders: dict[str, str]) -> None:
    """At a size the network was not made for: 5 x 5 patches where it has 2 x 2."""
    side = 5 * KINDS[kind]
    features = _create(folders[kind], side, layer=layer)
    assert (features.grid, features.dim, features.dim_cut) == ((5, 5), 24, 24)
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    maps = features(pixels)
    mean, std = features._extractor.mean, features._extractor.std
    keys, hidden, special = _by_hand(folders[kind], (pixels.float() / 255 - mean) / std, layer)
    assert keys.shape[1] == special + 25
    for y in range(5):
        for x in range(5):
            token = special + 5 * y + x
            torch.testing.assert_close(maps.cut[:, y, x], keys[:, token], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(maps.pooled[:, y, x], hidden[:, token], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_patch_lands_in_its_row_and_column(kind: str, folders: dict[str, str]) -> None:
    """Only the first block's keys are asked for: they have seen no other patch."""
    p = KINDS[kind]
    features = _create(folders[kind], 4 * p, layer=0)
    image = torch.zeros(1, 3, 4 * p, 4 * p)
    image[..., p : 2 * p, 3 * p :] = torch.rand(3, p, p)
    changed = (features(image).cut - features(torch.zeros_like(image)).cut).norm(dim=-1)[0]
    assert changed[1, 3] > 1e-2
    changed[1, 3] = 0
    assert float(changed.max()) < 1e-6


@pytest.mark.parametrize("kind", list(KINDS))
def test_features_do_not_depend_on_the_batch(kind: str, folders: dict[str, str]) -> None:
    side = 3 * KINDS[kind]
    features = _create(folders[kind], side)
    pixels = torch.randint(0, 256, (5, 3, side, side), dtype=torch.uint8)
    whole = features(pixels)
    again = features(pixels[[3, 1]])
    for part, full in zip(again, whole, strict=True):
        assert torch.equal(part, full[[3, 1]])
    assert whole.cut.shape == (5, 3, 3, 24)
    assert features(pixels[:0]).cut.shape == (0, 3, 3, 24)


def test_batches_of_one_size_give_the_same_features(folders: dict[str, str]) -> None:
    """What a GPU does: the last batch is filled up, and the filling left out again."""
    features = _create(folders["vit"], 48, batch_size=4)
    pixels = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    padded = features._forward(pixels, 4)
    assert padded.cut.shape == (4, 3, 3, 24)
    torch.testing.assert_close(padded.cut[:3], features(pixels).cut, atol=1e-5, rtol=1e-5)


def test_uint8_and_unit_range_are_the_same_pixels(folders: dict[str, str]) -> None:
    features = _create(folders["vit"], 32)
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(features(pixels).cut, features(pixels.float() / 255).cut)
    with pytest.raises(ValueError, match=r"\[1, 3, 32, 16\], not \[B, 3, 32, 32\]"):
        features(pixels[..., :16])


def test_heads_can_be_trained_on_features(folders: dict[str, str]) -> None:
    maps = _create(folders["vit"], 32)(torch.rand(1, 3, 32, 32))
    head = nn.Linear(24, 1)
    head(maps.pooled).sum().backward()
    assert head.weight.grad is not None


def test_the_last_hidden_state_can_be_cut(folders: dict[str, str]) -> None:
    maps = _create(folders["dinov3_vit"], 48, kind="features")(torch.rand(1, 3, 48, 48))
    assert torch.equal(maps.cut, maps.pooled)


def test_keys_come_from_the_middle_of_a_fused_projection() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(4, 12)

    net = nn.Sequential(Attention(), Attention())
    linear, part = _key_projection(net, -1, "net")
    assert linear is net[1].qkv
    assert part == "middle"


def test_fused_keys_equal_separate_ones(folders: dict[str, str]) -> None:
    from relabel.backbones.extractor import FeatureExtractor, resolve_backbone

    class Fused(nn.Module):
        """A projection that makes queries, keys and values; the values are passed on as keys."""

        def __init__(self, key: nn.Linear) -> None:
            super().__init__()
            self.qkv = nn.Linear(24, 72)
            with torch.no_grad():
                self.qkv.weight[24:48], self.qkv.bias[24:48] = key.weight, key.bias

        def forward(self, x: Tensor) -> Tensor:
            return self.qkv(x)[..., 24:48]

    folder = folders["vit"]
    plain = _create(folder, 48)
    extractor = FeatureExtractor(resolve_backbone(folder), folder)
    for name, module in list(extractor.net.named_modules()):
        if name.endswith(".k_proj"):
            parent = extractor.net.get_submodule(name.rpartition(".")[0])
            parent.k_proj = Fused(module)  # type: ignore[assignment]
    settings = MaskCutSettings(backbone=folder, image_size=48, precision="fp32")
    fused = PatchFeatures(extractor, settings, CPU, "fused")
    pixels = torch.rand(2, 3, 48, 48)
    torch.testing.assert_close(fused(pixels).cut, plain(pixels).cut, atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_said(folders: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="Use an image size of 448 or 464"):
        _create(folders["vit"], 450)
    with pytest.raises(ConfigError, match=r"no attention block 3.*from -3 to 2"):
        _create(folders["vit"], 32, layer=3)
    with pytest.raises(ConfigError, match=r"--set maskcut\.kind=features"):
        _key_projection(nn.Sequential(nn.MultiheadAttention(4, 1)), -1, "net")


def test_networks_of_several_stages_are_refused(tmp_path: Path) -> None:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(image_size=64, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2)
    SwinModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"Use a plain ViT or a convolutional network"):
        _create(str(tmp_path), 64, kind="features")(torch.rand(1, 3, 64, 64))


def test_square_is_lanczos_and_keeps_the_orientation() -> None:
    image = np.zeros((40, 80, 3), dtype=np.uint8)
    image[:10, :, 0] = 255  # the top quarter is red
    image[:, 60:, 2] = 255  # the right quarter is blue
    made = square(image, 20)
    assert made.shape == (20, 20, 3)
    assert (made[1, :, 0] == 255).all()
    assert (made[8:, :, 0] == 0).all()
    assert (made[:, 18, 2] == 255).all()
    assert (made[:, :12, 2] == 0).all()
    wanted = Image.fromarray(image).resize((20, 20), Image.Resampling.LANCZOS)
    assert np.array_equal(made, np.array(wanted))


def test_convnext_of_dinov3_pools_its_normalised_map(tmp_path: Path) -> None:
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

    torch.manual_seed(0)
    config = DINOv3ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1])
    model = DINOv3ConvNextModel(config).eval()
    model.save_pretrained(tmp_path)
    features = _create(str(tmp_path), 96, stride=32)
    assert (features.grid, features.dim_cut, features.dim) == ((3, 3), 20, 20)
    pixels = torch.rand(2, 3, 96, 96)
    maps = features(pixels)
    x = (pixels - features._extractor.mean) / features._extractor.std
    with torch.no_grad():
        tokens = model(x).last_hidden_state
    torch.testing.assert_close(maps.pooled.reshape(2, 9, 20), tokens[:, 1:], atol=1e-4, rtol=1e-4)
    finer = _create(str(tmp_path), 96, stride=8)
    assert finer(pixels).pooled.shape == (2, 12, 12, 20)
    with pytest.raises(ConfigError, match=r"no feature map of stride 7.*4, 8, 16, 32"):
        _create(str(tmp_path), 96, stride=7)
    with pytest.raises(ConfigError, match="no attention keys"):
        _create(str(tmp_path), 96, kind="keys")


@pytest.mark.skipif(not MOBILENET.is_dir(), reason="no MobileNetV2 checkpoint in ../shared")
def test_mobilenet_pools_what_its_classifier_averages() -> None:
    from transformers import MobileNetV2ForImageClassification

    model = MobileNetV2ForImageClassification.from_pretrained(MOBILENET, dtype=torch.float32)
    model = model.eval()
    features = _create(str(MOBILENET), 128, stride=32)
    assert (features.grid, features.dim) == ((4, 4), 1280)
    pixels = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    maps = features(pixels)
    assert float(maps.pooled.min()) >= 0
    assert float(maps.pooled.max()) <= 6
    x = (pixels.float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        wanted = model(x).logits
        made = model.classifier(maps.pooled.mean((1, 2)))
        states = model.mobilenet_v2(x, output_hidden_states=True).hidden_states
    torch.testing.assert_close(made, wanted, atol=1e-3, rtol=1e-3)

    fine = _create(str(MOBILENET), 128, stride=16)
    cut = fine(pixels).cut
    assert fine.grid == (8, 8)
    last = [s for s in states if s.shape[-1] == 8][-1]
    torch.testing.assert_close(cut, last.permute(0, 2, 3, 1), atol=1e-3, rtol=1e-3)
    assert torch.equal(fine(pixels[1:]).cut, cut[1:])
    assert torch.equal(fine(pixels[1:]).pooled, fine(pixels).pooled[1:])
    assert fine.source_identity.startswith("mobilenet_v2_imagenet@")


def test_odd_sides_have_the_grid_that_the_network_makes(tmp_path: Path) -> None:
    from transformers import MobileNetV2Config, MobileNetV2Model

    MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35)).save_pretrained(tmp_path)
    features = _create(str(tmp_path), 100, stride=16)
    maps = features(torch.rand(1, 3, 100, 100))
    assert features.grid == (7, 7)
    assert maps.cut.shape == (1, 7, 7, features.dim_cut)
    assert maps.pooled.shape == (1, 7, 7, 1280)
