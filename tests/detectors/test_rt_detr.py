"""RT-DETRv2: learning, resuming, checkpoints; its loss with ignore regions and unknown classes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relabel.align.settings import PipelineSettings, stage_settings
from relabel.cli import main
from relabel.datasets.images import load_rgb
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections, load_detector
from relabel.detectors.rt_detr import RTDetrTrainable
from relabel.detectors.rt_detr_loss import Criterion, Truth, truths_of
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import TrainingBatches, train_specialist
from relabel.errors import ConfigError, DataError
from relabel.lat.features import FrozenFeatures
from relabel.lat.settings import LatSettings
from relabel.settings import Runtime, settings_dict
from tests.lat.world import make_world, tiny_backbone

RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
SPACE = LabelSpace.from_names("three", ["a", "b", "c"])
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> SpecialistSettings:
    return SpecialistSettings(
        detector="rt-detr",
        backbone=str(tiny_backbone(tmp_path_factory.mktemp("backbone"))),
        frozen_stride=0,
        backbone_lr_scale=1.0,
        image_size=96,
        steps=150,
        lr=3e-3,
        precision="fp32",
        color_jitter=0.1,
        rtdetr_queries=30,
        rtdetr_denoising=20,
        rtdetr_layers=2,
        rtdetr_channels=32,
        rtdetr_ffn=64,
        rtdetr_heads=4,
    )


@pytest.fixture(scope="module")
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


def new_trainable(settings: SpecialistSettings, seed: int = 0) -> RTDetrTrainable:
    torch.manual_seed(seed)
    return RTDetrTrainable.create(SPACE, settings)


def target(boxes: list[list[float]], labels: list[int], **more: Any) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "ignored": torch.zeros(0, 4),
        **more,
    }


def pixels_of(batch: int = 2, height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def losses(trainable: RTDetrTrainable, targets: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    torch.manual_seed(7)
    trainable.model.train()
    return trainable.model(pixels_of(len(targets)), [(64, 96)] * len(targets), targets)


def learn(parts: dict[str, Any]) -> None:
    torch.stack(list(parts.values())).sum().backward()


def same(a: list[Detections], b: list[Detections]) -> bool:
    return all(
        np.array_equal(x.boxes, y.boxes) and np.array_equal(x.scores, y.scores)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.slow
def test_it_finds_blocks_it_has_not_seen(settings: SpecialistSettings, tmp_path: Path) -> None:
    train = make_world(tmp_path / "train", images=40).target
    fresh = make_world(tmp_path / "fresh", images=10, seed=1).target
    folder = train_specialist(train, tmp_path / "out", settings, RUNTIME, val=fresh)
    history = json.loads((folder / "metrics.json").read_text())["validation"]
    # Measured 0.8 to 0.9; random boxes and names give under 0.05.
    assert history[-1]["AP50"] > 0.5
    detector = load_detector(folder, device="cpu")
    assert detector.space.class_names == ["red", "blue"]
    images = [load_rgb(fresh, i) for i in range(3)]
    together = detector.predict(images)
    for image, found in zip(images, together, strict=True):
        assert 0 < len(found) <= settings.rtdetr_queries
        assert found.scores.shape == (len(found), 2)
        best = found.scores.max(axis=1)
        assert best.min() > 0.01
        assert (np.diff(best) <= 0).all()
        assert found.boxes.dtype == np.float32
        assert found.boxes.min() >= 0
        assert (found.boxes.max(axis=0) <= [image.shape[1], image.shape[0]] * 2).all()


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(
    settings: SpecialistSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_world(tmp_path / "data", images=6).target
    # The average of the weights and the noise of the denoising queries must go on as well.
    short = replace(settings, steps=5, checkpoint_every=0.0, ema=0.99, batch_size=2)
    whole = train_specialist(data, tmp_path / "whole", short, RUNTIME)
    real = TrainingBatches.__call__

    def dies(self: TrainingBatches, step: int) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(TrainingBatches, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        train_specialist(data, tmp_path / "cut", short, RUNTIME)
    assert not (tmp_path / "cut" / "config.json").exists()
    monkeypatch.setattr(TrainingBatches, "__call__", real)
    cut = train_specialist(data, tmp_path / "cut", short, RUNTIME)
    for name in ("model.safetensors", "config.json", "training.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_without_ignore_regions_the_loss_is_that_of_transformers(
    settings: SpecialistSettings,
) -> None:
    from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss

    trainable = new_trainable(settings)
    targets = [target([[10, 10, 40, 50], [60, 20, 90, 60]], [1, 3]), target([], [])]
    ours = losses(trainable, targets)
    torch.manual_seed(7)
    labels = [{"class_labels": t.labels, "boxes": t.boxes} for t in truths_of(targets, (64, 96))]
    found = trainable.model.net(pixels_of(), labels=labels)
    _, theirs, _ = RTDetrForObjectDetectionLoss(
        found.intermediate_logits[:, -1],
        labels,
        "cpu",
        found.intermediate_reference_points[:, -1],
        trainable.model.net.config,
        found.intermediate_logits,
        found.intermediate_reference_points,
        found.enc_topk_logits,
        found.enc_topk_bboxes,
        found.denoising_meta_values,
    )
    for ending in ("", "_aux", "_dn"):
        for name in ("vfl", "bbox", "giou"):
            prefix = f"loss_{name}{ending}"
            parts = [
                float(v.detach())
                for k, v in theirs.items()
                if (k == prefix if not ending else k.startswith(prefix + "_"))
            ]
            assert parts
            assert float(ours[prefix].detach()) == pytest.approx(sum(parts), rel=1e-4), prefix


def test_a_query_inside_an_ignore_region_is_no_background() -> None:
    """One object, three queries: matched, free, and free inside the region."""
    from transformers import RTDetrV2Config

    criterion = Criterion(RTDetrV2Config())
    boxes = torch.tensor([[0.2, 0.5, 0.2, 0.4], [0.5, 0.5, 0.1, 0.1], [0.8, 0.5, 0.2, 0.4]])
    logits = torch.zeros(1, 1, 3, 2, requires_grad=True)
    boxes = boxes[None, None].clone().requires_grad_()
    region = torch.tensor([[65.0, 0, 100, 50]])
    truth = Truth(boxes[0, 0, :1].detach().clone(), torch.tensor([1]), region, None)
    pairs = criterion.match(logits, boxes, [truth])
    assert [int(v) for v in (pairs.image, pairs.set, pairs.query, pairs.box)] == [0, 0, 0, 0]
    parts = criterion.losses(logits, boxes, [truth], pairs, (50, 100))
    # Per logit of 0: log 2, weighted by the IoU of 1 or by 0.75 * 0.5 ** 2. The region's two
    # logits are left out, so that three of background stay.
    expected = np.log(2) * (1 + 3 * 0.75 * 0.25)
    assert parts[0].tolist() == pytest.approx([expected, 0, 0], abs=1e-5)
    parts.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 2].abs().max() == 0
    assert logits.grad[0, 0, :2].abs().min() > 0


def test_a_matched_query_inside_an_ignore_region_still_learns() -> None:
    from transformers import RTDetrV2Config

    criterion = Criterion(RTDetrV2Config())
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]])[None, None]
    logits = torch.zeros(1, 1, 2, 2)
    everywhere = torch.tensor([[0.0, 0, 100, 100]])
    truth = Truth(torch.tensor([[0.5, 0.5, 0.2, 0.1]]), torch.tensor([0]), everywhere, None)
    pairs = criterion.match(logits, boxes, [truth])
    parts = criterion.losses(logits, boxes, [truth], pairs, (100, 100))
    # IoU 0.5: its own class is drawn to it with that weight, the other class to 0.
    expected = np.log(2) * (0.5 + 0.75 * 0.25)
    assert parts[0, 0].item() == pytest.approx(expected, rel=1e-5)
    assert parts[0, 1].item() == pytest.approx(5 * 0.1, rel=1e-5)
    assert parts[0, 2].item() == pytest.approx(2 * 0.5, rel=1e-4)


def test_classes_that_an_image_does_not_know_get_no_gradient(settings: SpecialistSettings) -> None:
    trainable = new_trainable(settings)
    known = torch.tensor([True, True, False, True])
    targets = [
        target([[10, 10, 40, 50]], [1], classes=known),
        target([[20, 10, 50, 40], [60, 8, 80, 30]], [3, 1], classes=known),
    ]
    learn(losses(trainable, targets))
    net = trainable.model.net
    heads = [net.enc_score_head.module, *net.decoder.module.class_embed]
    for head in heads:
        per_class = head.weight.grad.abs().sum(dim=1)
        assert (per_class > 0).tolist() == [True, False, True]
        assert (head.bias.grad != 0).tolist() == [True, False, True]
    # Label noise of the denoising queries draws known classes only.
    noise = net.denoising_class_embed.weight.grad.abs().sum(dim=1)
    assert (noise > 0).tolist() == [True, False, True, False]
    # In the next batch everything is known again.
    trainable.model.zero_grad()
    learn(losses(trainable, [target([[10, 10, 40, 50]], [2])]))
    assert (heads[0].weight.grad.abs().sum(dim=1) > 0).all()


def test_images_without_boxes_teach_background_only(settings: SpecialistSettings) -> None:
    trainable = new_trainable(settings)
    found = losses(trainable, [target([], []), target([], [])])
    assert list(found) == [
        f"loss_{n}{e}" for e in ("", "_aux", "_dn") for n in ("vfl", "bbox", "giou")
    ]
    assert {k for k, v in found.items() if float(v.detach()) > 0} == {"loss_vfl", "loss_vfl_aux"}
    learn(found)
    # A parameter out of the graph would stop training on several devices.
    assert all(p.grad is not None for p in trainable.model.parameters() if p.requires_grad)


def test_boxes_become_fractions_of_the_padded_batch() -> None:
    rows: list[list[float]] = [[10, 20, 30, 60], [90, 0, 120, 50], [40, 40, 40, 50]]
    known = torch.tensor([True, True, False])
    (truth,) = truths_of([target(rows, [1, 1, 1])], (100, 100))
    # The second is cut at the border, the third has no area.
    expected = [0.2, 0.4, 0.2, 0.4, 0.95, 0.25, 0.1, 0.5]
    assert truth.boxes.flatten().tolist() == pytest.approx(expected)
    (truth,) = truths_of([target(rows[:2], [1, 2], classes=known)], (100, 200))
    assert truth.labels.tolist() == [0]
    assert truth.boxes.tolist() == [pytest.approx([0.1, 0.4, 0.1, 0.4])]


def test_a_saved_model_predicts_the_same_whatever_shares_its_batch(
    settings: SpecialistSettings, tmp_path: Path
) -> None:
    backbone = tmp_path / "backbone"
    shutil.copytree(settings.backbone, backbone)
    trainable = new_trainable(replace(settings, backbone=str(backbone)))
    rng = np.random.default_rng(0)
    sizes = [(96, 96), (60, 150), (96, 96), (10, 200)]
    images = [rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    trainable.model.to(memory_format=torch.channels_last)  # as training and loading leave it
    before = trainable.detector(CPU).predict(images)
    trainable.save(tmp_path / "model")
    shutil.rmtree(backbone)
    loaded = load_detector(tmp_path / "model", device="cpu")
    assert same(loaded.predict(images), before)
    assert loaded.space == SPACE
    alone = [loaded.predict([image])[0] for image in images]
    for a, b in zip(alone, before, strict=True):
        assert len(a)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-2)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["detector"] == "rt_detr"
    assert str(tmp_path) not in json.dumps(config["model"])


def test_autocast_leaves_boxes_in_full_precision(settings: SpecialistSettings) -> None:
    trainable = new_trainable(settings)
    model = trainable.model.eval()
    seen = {}
    for name in ("encoder", "decoder"):
        getattr(model.net, name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.setdefault(name, out)
        )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(pixels_of(1), [(64, 96)])
    assert seen["encoder"].last_hidden_state[0].dtype == torch.bfloat16
    assert seen["decoder"].intermediate_reference_points.dtype == torch.float32
    assert seen["decoder"].intermediate_logits.dtype == torch.float32


def test_a_whole_checkpoint_loads_with_new_class_heads(
    settings: SpecialistSettings, whole: Path, tmp_path: Path
) -> None:
    from transformers import RTDetrV2ForObjectDetection

    theirs = RTDetrV2ForObjectDetection.from_pretrained(whole).model
    trainable = new_trainable(replace(settings, rtdetr_model=str(whole), frozen_stride=4))
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
    trained = {n for n, p in trainable.model.backbone.named_parameters() if p.requires_grad}
    assert not any("embedder" in n or "stages.0" in n for n in trained)
    assert any("stages.1" in n for n in trained)
    assert trainable.backbone_parameters() >= {
        id(p) for p in trainable.model.backbone.parameters() if p.requires_grad
    }
    # RT-DETR's own pixels are not normalised.
    backbone: Any = trainable.model.backbone
    assert float(backbone.mean.abs().max()) == 0
    learn(losses(trainable, [target([[10, 10, 40, 50]], [2])]))
    images = [np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)]
    before = trainable.detector(CPU).predict(images)
    trainable.save(tmp_path)
    assert same(load_detector(tmp_path, device="cpu").predict(images), before)
    with pytest.raises(ConfigError, match=r"cannot be taken alone.*--lat-backbone"):
        FrozenFeatures.create(LatSettings(), CPU, tmp_path)


def test_pixels_are_normalised_as_the_checkpoint_says(
    settings: SpecialistSettings, whole: Path, tmp_path: Path
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
    backbone: Any = new_trainable(replace(settings, rtdetr_model=str(folder))).model.backbone
    assert backbone.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert backbone.std.flatten().tolist() == pytest.approx([0.2, 0.2, 0.25])


def test_lat_takes_the_backbone_of_an_rt_detr(settings: SpecialistSettings, tmp_path: Path) -> None:
    trainable = new_trainable(settings)
    trainable.save(tmp_path)
    features = FrozenFeatures.create(
        LatSettings(image_size=64, precision="fp32", feature_channels=4), CPU, tmp_path
    )
    images = [np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)]
    features.fit_pca(images)
    (pooled,) = features.pool(images, [np.array([[4, 4, 40, 40]], np.float32)])
    assert pooled.shape == (1, features.width)
    maps = trainable.model.backbone.body
    assert maps is not None
    for key, value in features.body.state_dict().items():
        assert torch.equal(value, maps.state_dict()[key]), key


def test_a_restricted_copy_predicts_the_chosen_classes(settings: SpecialistSettings) -> None:
    trainable = new_trainable(settings)
    images = [np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)]
    # With all classes, in another order.
    turned = trainable.restricted(LabelSpace.from_names("turned", ["c", "a", "b"]), [2, 0, 1])
    (full,) = trainable.detector(CPU).predict(images)
    (again,) = turned.detector(CPU).predict(images)
    np.testing.assert_allclose(again.boxes, full.boxes, atol=1e-3)
    np.testing.assert_allclose(again.scores, full.scores[:, [2, 0, 1]], atol=1e-6)


def test_what_cannot_be_loaded_is_one_line_with_a_remedy(
    settings: SpecialistSettings, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json.*rtdetr_v2_r18vd"):
        new_trainable(replace(settings, rtdetr_model=str(tmp_path)))
    with pytest.raises(ConfigError, match="is a mobilenet_v2, no rt_detr_v2"):
        new_trainable(replace(settings, rtdetr_model=settings.backbone))
    damaged = tmp_path / "damaged"
    shutil.copytree(whole, damaged)
    (damaged / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        new_trainable(replace(settings, rtdetr_model=str(damaged)))
    with pytest.raises(ConfigError, match="rtdetr_channels is 30"):
        replace(settings, rtdetr_channels=30)
    new_trainable(settings).save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="weights cannot be loaded"):
        load_detector(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"detector": "rt_detr"}')
    with pytest.raises(DataError, match=r"not an RT-DETR checkpoint.*--detector rt-detr"):
        load_detector(tmp_path / "model")
    early = PipelineSettings(specialist=replace(settings, rtdetr_model=str(whole)))
    with pytest.raises(ConfigError, match="--lat-backbone"):
        early.require_lat_backbone()


def test_fingerprints_hold_what_the_family_uses(settings: SpecialistSettings, whole: Path) -> None:
    plain = SpecialistSettings()
    later = {"detector", "decay"}
    before = {f.name for f in fields(plain) if not f.name.startswith("rtdetr_")} - later
    assert set(plain.result_dict()) == before
    assert plain.result_dict() == {k: v for k, v in settings_dict(plain).items() if k in before}
    assert replace(plain, rtdetr_queries=7).result_dict() == plain.result_dict()
    assert replace(plain, decay=0.5).result_dict()["decay"] == 0.5
    built = settings.result_dict()
    assert built["detector"] == "rt-detr"
    assert built["rtdetr_channels"] == 32
    assert "rtdetr_model" not in built
    assert "fpn_channels" not in built
    loaded = stage_settings(replace(settings, rtdetr_model=str(whole)))
    assert "backbone" not in loaded
    assert "rtdetr_channels" not in loaded
    # The same weights at another place are the same settings.
    assert loaded["rtdetr_model"].startswith(f"{whole.name}@")
    preset = replace(SpecialistSettings(), detector="rt-detr", preset="standard").resolved()
    assert (preset.rtdetr_layers, preset.rtdetr_queries, preset.lr) == (6, 300, 1e-4)
    assert SpecialistSettings(preset="standard").resolved().lr == 1e-3


@pytest.mark.slow
def test_the_command_line_trains_and_cross_labels(
    settings: SpecialistSettings,
    coco_set: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*args: str) -> dict[str, Any]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*args, "--device", "cpu", "--workers", "0", "--quiet", "--json"])
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        return json.loads(out)

    fine, coarse = coco_set("fine", ["car", "bus"]), coco_set("coarse", ["vehicle"], 3)
    model = tmp_path / "model"
    train = [
        *("train-specialist", "fine", "--data", f"fine={fine}:coco", "--out", str(model)),
        *("--detector", "rt-detr", "--backbone", settings.backbone, "--steps", "2"),
        *("--image-size", "64", "--frozen-stride", "0", "--precision", "fp32"),
        *("--rtdetr-channels", "32", "--rtdetr-expansion", "1"),
        *("--rtdetr-ffn", "32", "--rtdetr-heads", "4", "--rtdetr-layers", "1"),
    ]
    assert run(*train)["checkpoint"] == str(model)
    assert json.loads((model / "config.json").read_text())["detector"] == "rt_detr"
    written = (model / "model.safetensors").stat().st_mtime_ns
    run(*train)
    assert (model / "model.safetensors").stat().st_mtime_ns == written
    data = ("--data", f"coarse={coarse}:coco", "--out", str(tmp_path / "labels"))
    counts = run("cross-label", str(model), "coarse", *data, "--min-score", "0.01")
    assert (counts["images"], counts["by"], counts["on"]) == (3, "fine", "coarse")
    assert counts["boxes"] > 0
