"""Classifiers on soft multi-labels: losses, heads, training, saving."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from relabel.backbones.heads import find_head, match_head
from relabel.classifiers.augment import centre_view
from relabel.classifiers.data import (
    UNKNOWN,
    AugmentedBatches,
)
from relabel.classifiers.inputs import read_validation
from relabel.classifiers.model import build_classifier, load_for_prediction, save_classifier
from relabel.classifiers.settings import PRESETS, ClassifierSettings
from relabel.classifiers.train import (
    classification_loss,
    measure_classifier,
    predict,
    train_classifier,
)
from relabel.errors import ConfigError, DataError, Problems
from relabel.settings import Runtime
from tests.builders.colours import COLOURS, quick, read, tiny_resnet, two_colour_set

RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
NAMES = tuple(COLOURS)


# --- losses ---


def test_bce_is_the_mean_over_images_and_classes_and_skips_unknown_ones() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 3.0]])
    targets = torch.tensor([[1.0, 0.25], [0.0, UNKNOWN]])

    def one(x: float, t: float) -> float:
        p = 1 / (1 + math.exp(-x))
        return -(t * math.log(p) + (1 - t) * math.log(1 - p))

    wanted = (one(0, 1) + one(2, 0.25) + one(-1, 0)) / 3
    got = classification_loss(logits, targets, ClassifierSettings(loss="bce"))
    assert float(got) == pytest.approx(wanted, rel=1e-6)


def test_softmax_and_smoothing_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    targets = torch.tensor([[0.0, 1.0, 0.0]])
    total = math.exp(1) + math.exp(2) + math.exp(0)
    logs = [1 - math.log(total), 2 - math.log(total), -math.log(total)]
    plain = classification_loss(logits, targets, ClassifierSettings(loss="softmax"))
    assert float(plain) == pytest.approx(-logs[1], rel=1e-6)
    smooth = classification_loss(logits, targets, ClassifierSettings(loss="smoothing"))
    wanted = -sum(t * v for t, v in zip([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3], logs, strict=True))
    assert float(smooth) == pytest.approx(wanted, rel=1e-6)


# --- heads ---


def test_background_is_dropped_when_the_other_classes_match() -> None:
    three = ["x", "y", "z"]
    assert match_head(["background", "a", "b", "c"], three, three) is not None
    assert match_head(["background", "a", "b", "c"], three, three).tolist() == [1, 2, 3]  # type: ignore[union-attr]
    assert match_head(["a", "b", "c"], three, three).tolist() == [0, 1, 2]  # type: ignore[union-attr]
    assert match_head(["a", "b", "c", "d"], three, three) is None
    assert match_head(["a", "b"], three, three) is None
    # By WordNet id, also a part of the classes in another order.
    labels = ["background", "n00000001 tench, Tinca tinca", "n00000002 crane", "n00000003 crane"]
    rows = match_head(labels, ["crane", "tench"], ["n00000003", "n00000001"])
    assert rows is not None and rows.tolist() == [3, 1]
    rows = match_head(["tench, Tinca tinca", "goldfish"], ["goldfish", "tench"], ["k1", "k2"])
    assert rows is not None and rows.tolist() == [1, 0]


def test_the_kept_head_gives_class_i_the_logit_after(tmp_path: Path) -> None:
    folder = tiny_resnet(tmp_path / "net", ["background", "a", "b", "c"])
    model, kept = build_classifier(str(folder), NAMES, NAMES, keep_head=True)
    assert kept
    from transformers import AutoModelForImageClassification

    whole = AutoModelForImageClassification.from_pretrained(folder).eval()
    x = torch.rand(2, 3, 32, 32)
    mean, std = model.mean, model.std
    with torch.no_grad():
        wanted = whole(pixel_values=(x - mean) / std).logits
        assert torch.allclose(model.eval()(x), wanted[:, 1:], atol=1e-6)
        published = load_for_prediction(folder)
        assert published.spec.classes == ("a", "b", "c")
        assert torch.allclose(published(x), wanted[:, 1:], atol=1e-6)
    assert not build_classifier(str(folder), NAMES[:2], NAMES[:2], keep_head=True)[1]


def test_a_kept_softmax_layer_is_centred_for_sigmoids(tmp_path: Path) -> None:
    from relabel.classifiers.train import _new_model

    labels = two_colour_set(tmp_path / "a", 12)
    images = read(tmp_path / "a", labels)
    folder = tiny_resnet(tmp_path / "net", ["background", "a", "b", "c"])
    model, kept = _new_model(images, quick(folder, keep_head=True), RUNTIME, None)
    assert kept
    scores = np.concatenate([v for _, v in predict(model.eval(), images, RUNTIME)])
    assert scores.sum(axis=1).mean() == pytest.approx(1.9, abs=0.01)


def test_new_layers_begin_at_the_prior_of_a_label() -> None:
    model, kept = build_classifier(
        "squeezenet1_1", NAMES, NAMES, pretrained=False, image_size=64, prior=0.2
    )
    assert not kept
    head = find_head(model.net)[1]
    assert isinstance(head, nn.Conv2d)
    assert head.bias is not None
    assert torch.sigmoid(head.bias).tolist() == pytest.approx([0.2] * 3)


def test_presets_yield_to_what_is_given() -> None:
    vit = ClassifierSettings(**{**PRESETS["vit"], "epochs": 20.0})
    assert (vit.epochs, vit.mixup, vit.augment, vit.weights) == (20, 0.8, "3-augment", "random")
    resnet = ClassifierSettings(**PRESETS["resnet"])
    assert (resnet.lr, resnet.weight_decay, resnet.batch_size) == (1e-3, 1e-4, 1024)
    assert resnet.epochs * resnet.warmup == 5
    assert ClassifierSettings(**PRESETS["finetune"]).epochs == 20
    assert set(PRESETS) == {"finetune", "resnet", "vit", "light"}
    with pytest.raises(ConfigError, match="crop_scale"):
        ClassifierSettings(crop_scale=(0.0, 1.0))


def test_frozen_batch_norms_keep_their_statistics(tmp_path: Path) -> None:
    images = read(tmp_path / "a", two_colour_set(tmp_path / "a", 8))
    folder = tiny_resnet(tmp_path / "net")
    moved = []
    for kind in ("auto", "train"):
        settings = quick(folder, steps=2, batch_norm=kind)
        train_classifier(images, tmp_path / kind, settings, RUNTIME)
        net = load_for_prediction(tmp_path / kind)
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        means = [m.running_mean for m in norms]
        moved.append(max(float(m.abs().max()) for m in means if m is not None))
        changed = max(float((m.weight - 1).detach().abs().max()) for m in norms)
        assert changed > 0
    assert moved[0] == 0 < moved[1]


# --- training ---


def test_both_colours_of_an_image_are_learned(tmp_path: Path) -> None:
    """Chance level of the mean AP with two true classes of three is 0.78; 0.95 are asked for."""
    images = read(tmp_path / "a", two_colour_set(tmp_path / "a", 48))
    val = read(tmp_path / "b", two_colour_set(tmp_path / "b", 24, seed=1))
    model = tiny_resnet(tmp_path / "net")
    metrics = train_classifier(images, tmp_path / "out", quick(model), RUNTIME, validation=val)
    assert metrics["images"] == 48 and metrics["skipped"] == 0
    assert metrics["validation"][-1]["example_mAP"] > 0.95
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    trained = load_for_prediction(tmp_path / "out")
    assert trained.spec.activation == "sigmoid"
    again = measure_classifier(trained, val, RUNTIME)
    assert again["example_mAP"] == pytest.approx(metrics["validation"][-1]["example_mAP"])
    scores = np.concatenate([v for _, v in predict(trained, val, RUNTIME)])
    present = val.targets(np.arange(len(val))) > 0
    assert scores[present].mean() > scores[~present].mean() + 0.4


@pytest.mark.parametrize("loss", ["softmax", "smoothing"])
def test_single_labels_train_with_the_same_recipe(tmp_path: Path, loss: str) -> None:
    rng = np.random.default_rng(0)
    from tests.builders.colours import paint

    for i in range(24):
        file = tmp_path / "a" / NAMES[i % 3] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(paint(rng, i % 3)).save(file)
    images = read(tmp_path / "a", None)
    settings = quick(tiny_resnet(tmp_path / "net"), loss=loss, steps=40)
    metrics = train_classifier(images, tmp_path / "out", settings, RUNTIME, validation=images)
    assert metrics["validation"][-1]["top1"] > 0.9  # chance 0.33
    assert load_for_prediction(tmp_path / "out").spec.activation == "softmax"


def test_images_without_a_target_are_skipped_and_counted(tmp_path: Path) -> None:
    labels = two_colour_set(tmp_path / "a", 6)
    lines = labels.read_text().splitlines()
    name, own, _, _ = lines[0].split("\t")
    lines[0] = f"{name}\t{own}\t\t"
    name, own, ids, _ = lines[1].split("\t")
    lines[1] = f"{name}\t{own}\t{ids}\t0.0000,0.0000"
    labels.write_text("\n".join(lines) + "\n")
    settings = quick(tiny_resnet(tmp_path / "net"), steps=1)
    metrics = train_classifier(read(tmp_path / "a", labels), tmp_path / "o", settings, RUNTIME)
    assert (metrics["images"], metrics["skipped"]) == (4, 2)
    none = tmp_path / "none.tsv"
    none.write_text("".join(f"{line.split(chr(9))[0]}\t0\t\t\n" for line in lines))
    with pytest.raises(DataError, match="none of the 6 images has a label"):
        train_classifier(read(tmp_path / "a", none), tmp_path / "p", settings, RUNTIME)


def test_a_damaged_image_is_an_error_or_replaced_by_the_next(tmp_path: Path) -> None:
    labels = two_colour_set(tmp_path / "a", 6)
    images = read(tmp_path / "a", labels)
    Path(images.locations[2]).write_bytes(b"no image")
    settings = quick(tiny_resnet(tmp_path / "net"), steps=3)
    with pytest.raises(DataError, match="cannot be decoded"):
        train_classifier(images, tmp_path / "o", settings, RUNTIME)
    problems = Problems(skip_bad=True)
    metrics = train_classifier(
        images, tmp_path / "p", settings, RUNTIME, problems=problems, validation=images
    )
    assert metrics["unreadable"] == 1
    assert metrics["validation"][-1]["images"] == 5
    assert [p.file for p in problems.errors] == [images.locations[2]]


def test_a_resumed_training_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = read(tmp_path / "a", two_colour_set(tmp_path / "a", 12))
    settings = quick(
        tiny_resnet(tmp_path / "net"), steps=6, ema=0.9, mixup=0.8, cutmix=1.0, checkpoint_every=0.0
    )
    train_classifier(images, tmp_path / "whole", settings, RUNTIME)
    with monkeypatch.context() as patched:
        real = AugmentedBatches.__call__

        def killed(self: AugmentedBatches, step: int) -> Any:
            if step == 4:
                raise KeyboardInterrupt
            return real(self, step)

        patched.setattr(AugmentedBatches, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(images, tmp_path / "cut", settings, RUNTIME)
    assert (tmp_path / "cut" / "checkpoint").is_dir()
    train_classifier(images, tmp_path / "cut", settings, RUNTIME)
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "cut").iterdir())
    assert "model.safetensors" in names and "config.json" in names
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


# --- saving and loading ---


def test_a_transformers_classifier_is_saved_as_transformers_reads_it(tmp_path: Path) -> None:
    folder = tiny_resnet(tmp_path / "net")
    torch.manual_seed(1)
    model, _ = build_classifier(str(folder), NAMES, NAMES, image_size=32)
    save_classifier(model.eval(), tmp_path / "out")
    loaded = load_for_prediction(tmp_path / "out")
    assert loaded.spec == model.spec
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    net = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert net.config.id2label == dict(enumerate(NAMES))
    assert net.config.problem_type == "multi_label_classification"
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    grey = np.full((32, 40, 3), 128, np.uint8)
    pixels = processor(Image.fromarray(grey), return_tensors="pt")["pixel_values"]
    view = torch.from_numpy(centre_view(grey, 32, 0.875, "bicubic")).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        assert torch.allclose(net(pixels).logits, model(view), atol=1e-4)
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vit"])
def test_other_networks_come_back_the_same(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    if name == "vit":
        from transformers import ViTConfig, ViTForImageClassification

        config = ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            image_size=32, patch_size=8,
        )  # fmt: skip
        name = str(tmp_path / "vit")
        ViTForImageClassification(config).save_pretrained(name)
        # A size other than the checkpoint's: position embeddings are interpolated.
        model, _ = build_classifier(name, NAMES, NAMES, image_size=48, activation="softmax")
        assert build_classifier(name, NAMES, NAMES)[0].spec.image_size == 32
    else:
        model, _ = build_classifier(name, NAMES, NAMES, pretrained=False, image_size=48)
    save_classifier(model.eval(), tmp_path / "out")
    loaded = load_for_prediction(tmp_path / "out")
    assert loaded.spec == model.spec
    x = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        assert loaded(x).shape == (2, 3)
        assert torch.equal(loaded(x), model(x))
    (tmp_path / "out" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises((DataError, ConfigError)):
        load_for_prediction(tmp_path / "out")


def test_validation_labels_come_from_files_of_true_classes(tmp_path: Path) -> None:
    labels = two_colour_set(tmp_path / "a", 6)
    train = read(tmp_path / "a", labels)
    names = [Path(n).name for n in train.file_names]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({names[1]: ["2"], names[0]: ["0", "1"]}))
    val = read_validation(tmp_path / "a", truth, None, train, Problems())
    assert [Path(n).name for n in val.file_names] == [names[1], names[0]]
    assert val.targets(np.arange(2)).tolist() == [[0, 0, 1], [1, 1, 0]]
    truth.write_text(json.dumps({names[0]: ["3"]}))
    with pytest.raises(DataError, match="class id 3 is beyond"):
        read_validation(tmp_path / "a", truth, None, train, Problems())
