"""Classifiers on soft multi-labels: losses, batches, heads, training, saving."""

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

from relabel.datasets.dataset import DetectionDataset, Images, make_boxes
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.errors import ConfigError, DataError, Problems
from relabel.multilabel.classifier import (
    classification_loss,
    measure_classifier,
    predict,
    train_classifier,
)
from relabel.multilabel.classifier_augment import Mix, apply_mix, centre_view, draw_crop, draw_mix
from relabel.multilabel.classifier_data import (
    UNKNOWN,
    LabelledImages,
    TrainingBatches,
    from_detections,
)
from relabel.multilabel.classifier_head import find_head, match_head
from relabel.multilabel.classifier_inputs import read_images, read_validation
from relabel.multilabel.classifier_model import build_classifier, load_classifier, save_classifier
from relabel.multilabel.classifier_settings import PRESETS, ClassifierSettings
from relabel.settings import Runtime

from .colours import COLOURS, tiny_resnet, two_colour_set

RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
NAMES = tuple(COLOURS)


def quick(model: Path | str, **values: Any) -> ClassifierSettings:
    defaults: dict[str, Any] = {
        "model": str(model),
        "steps": 60,
        "batch_size": 8,
        "lr": 2e-2,
        "backbone_lr_scale": 1.0,
        "batch_norm": "train",
        "image_size": 32,
        "test_crop": 1.0,
        "crop_scale": (0.6, 1.0),
        "precision": "fp32",
    }
    return ClassifierSettings.from_preset("light", **{**defaults, **values})


def read(root: Path, labels: Path | None) -> LabelledImages:
    return read_images(root, labels, None, Problems())


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


# --- images, targets, batches ---


def test_labels_are_joined_by_name_and_rows_without_labels_left_out(tmp_path: Path) -> None:
    two_colour_set(tmp_path / "a", 6)
    names = sorted(p.relative_to(tmp_path / "a").as_posix() for p in tmp_path.glob("a/*/*.png"))
    labels = tmp_path / "some.tsv"
    labels.write_text(f"{names[4]}\t2\t0,2\t0.2500,1.0000\n{names[1]}\t1\t\t\n")
    images = read(tmp_path / "a", labels)
    assert images.file_names == [names[1], names[4]]
    assert images.class_names == NAMES
    assert images.gt.tolist() == [1, 2]
    assert images.targets(np.array([1, 0])).tolist() == [[0.25, 0, 1], [0, 0, 0]]
    # The image whose target is all zero teaches BCE nothing; its original label teaches softmax.
    assert images.usable("bce").tolist() == [1]
    assert images.usable("softmax").tolist() == [0, 1]
    bare = tmp_path / "bare.tsv"
    bare.write_text(f"{Path(names[3]).name}\t0\t1\t0.5000\n")
    assert read(tmp_path / "a", bare).file_names == [names[3]]


def test_labels_of_other_images_or_classes_are_an_error(tmp_path: Path) -> None:
    two_colour_set(tmp_path / "a", 4)
    labels = tmp_path / "x.tsv"
    labels.write_text("nowhere/1.png\t0\t0\t1.0000\n")
    with pytest.raises(DataError, match="none of the labels"):
        read(tmp_path / "a", labels)
    name = next((tmp_path / "a").glob("*/*.png")).relative_to(tmp_path / "a").as_posix()
    labels.write_text(f"{name}\t0\t7\t1.0000\n")
    with pytest.raises(DataError, match="class id 7 of the labels is beyond the 3"):
        read(tmp_path / "a", labels)


def test_selecting_keeps_each_images_labels(tmp_path: Path) -> None:
    images = read(tmp_path / "a", two_colour_set(tmp_path / "a", 8))
    rows = np.array([6, 0, 3])
    assert np.array_equal(images.select(rows).targets(np.arange(3)), images.targets(rows))


def detections(tmp_path: Path) -> DetectionDataset:
    space = LabelSpace("s", (Category(1, "cat"), Category(2, "dog"), Category(3, "cow")))
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    images = Images(np.array([1, 2]), ["a.png", "b.png"], np.array([8, 8]), np.array([8, 8]))
    boxes = make_boxes(
        [0, 0, 0, 0],
        [[0, 0, 2, 2], [0, 0, 5, 5], [1, 1, 3, 3], [0, 0, 8, 8]],
        [0, 1, 1, 2],
        ignore=[False, False, True, True],
    )
    return DetectionDataset("d", space, images, boxes, tmp_path)


def test_detections_become_classes_with_doubtful_ones_unknown(tmp_path: Path) -> None:
    images = from_detections(detections(tmp_path))
    assert images.targets(np.array([0])).tolist() == [[1, 1, UNKNOWN]]
    assert images.gt.tolist() == [1, -1]  # the dog's box is the largest that is certain
    assert images.usable("bce").tolist() == [0]
    crowds = from_detections(detections(tmp_path), crowds=True)
    assert crowds.targets(np.array([0])).tolist() == [[1, 1, 1]]
    assert crowds.gt.tolist() == [2, -1]


def test_batches_depend_on_the_step_and_not_on_the_number_of_processes(tmp_path: Path) -> None:
    images = read(tmp_path / "a", two_colour_set(tmp_path / "a", 10))
    s = quick("x", augment="3-augment", color_jitter=0.3, seed=3)
    whole = TrainingBatches(images, s, 32)
    parts = [TrainingBatches(images, s, 32, rank=r, world=2)(5) for r in range(2)]
    batch = whole(5)
    assert batch.pixels.shape == (8, 3, 32, 32)
    assert torch.equal(batch.pixels, whole(5).pixels)
    assert torch.equal(torch.cat([p.pixels for p in parts]), batch.pixels)
    assert torch.equal(torch.cat([p.targets for p in parts]), batch.targets)
    assert not torch.equal(whole(6).pixels, batch.pixels)
    single = TrainingBatches(images, quick("x", loss="softmax"), 32)(0)
    assert single.targets.sum(dim=1).tolist() == [1.0] * 8


def test_a_crop_keeps_to_area_aspect_and_image() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((40, 60), (10, 200)):
        for _ in range(200):
            left, top, right, bottom = draw_crop(height, width, (0.25, 0.5), rng)
            w, h = right - left, bottom - top
            assert left >= 0 and top >= 0 and right <= width + 1e-9 and bottom <= height + 1e-9
            assert 0.75 - 1e-9 <= w / h <= 4 / 3 + 1e-9
            if width == 60:
                assert 0.25 - 1e-9 <= w * h / (height * width) <= 0.5 + 1e-9


def test_the_centre_is_what_is_tested() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 255
    assert (centre_view(image, 16, 1.0, "bilinear")[:, 1:-1] == 255).all()
    image[5:35, 25:55] = 90
    assert (centre_view(image, 16, 0.5, "bilinear") == 90).all()


def test_blending_by_hand() -> None:
    pixels = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    targets = torch.tensor([[1.0, 0.0, UNKNOWN], [0.0, 1.0, 1.0]])
    x, t = apply_mix(pixels, targets, Mix(0.75))
    assert x[:, 0, 0, 0].tolist() == [0.25, 0.75]
    assert t.tolist() == [[0.75, 0.25, UNKNOWN], [0.25, 0.75, UNKNOWN]]
    x, t = apply_mix(pixels, targets, Mix(0.75, (0, 2, 0, 2)))
    assert x[0, 0].sum() == 4 and x[1, 0].sum() == 12
    rng = np.random.default_rng(1)
    for _ in range(50):
        mix = draw_mix(quick("x", cutmix=1.0), 32, rng)
        assert mix is not None and mix.box is not None
        top, bottom, left, right = mix.box
        assert mix.keep == pytest.approx(1 - (bottom - top) * (right - left) / 1024)
    assert draw_mix(quick("x"), 32, rng) is None


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
        published = load_classifier(folder)
        assert published.spec.classes == ("a", "b", "c")
        assert torch.allclose(published(x), wanted[:, 1:], atol=1e-6)
    assert not build_classifier(str(folder), NAMES[:2], NAMES[:2], keep_head=True)[1]


def test_a_kept_softmax_layer_is_centred_for_sigmoids(tmp_path: Path) -> None:
    from relabel.multilabel.classifier import _new_model

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
    vit = ClassifierSettings.from_preset("vit", epochs=20)
    assert (vit.epochs, vit.mixup, vit.augment, vit.weights) == (20, 0.8, "3-augment", "random")
    resnet = ClassifierSettings.from_preset("resnet")
    assert (resnet.lr, resnet.weight_decay, resnet.batch_size) == (1e-3, 1e-4, 1024)
    assert resnet.epochs * resnet.warmup == 5
    assert ClassifierSettings.from_preset("finetune").epochs == 20
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
        net = load_classifier(tmp_path / kind)
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
    trained = load_classifier(tmp_path / "out")
    assert trained.spec.activation == "sigmoid"
    again = measure_classifier(trained, val, RUNTIME)
    assert again["example_mAP"] == pytest.approx(metrics["validation"][-1]["example_mAP"])
    scores = np.concatenate([v for _, v in predict(trained, val, RUNTIME)])
    present = val.targets(np.arange(len(val))) > 0
    assert scores[present].mean() > scores[~present].mean() + 0.4


@pytest.mark.parametrize("loss", ["softmax", "smoothing"])
def test_single_labels_train_with_the_same_recipe(tmp_path: Path, loss: str) -> None:
    rng = np.random.default_rng(0)
    from .colours import paint

    for i in range(24):
        file = tmp_path / "a" / NAMES[i % 3] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(paint(rng, i % 3)).save(file)
    images = read(tmp_path / "a", None)
    settings = quick(tiny_resnet(tmp_path / "net"), loss=loss, steps=40)
    metrics = train_classifier(images, tmp_path / "out", settings, RUNTIME, validation=images)
    assert metrics["validation"][-1]["top1"] > 0.9  # chance 0.33
    assert load_classifier(tmp_path / "out").spec.activation == "softmax"


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
        real = TrainingBatches.__call__

        def killed(self: TrainingBatches, step: int) -> Any:
            if step == 4:
                raise KeyboardInterrupt
            return real(self, step)

        patched.setattr(TrainingBatches, "__call__", killed)
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
    loaded = load_classifier(tmp_path / "out")
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
    loaded = load_classifier(tmp_path / "out")
    assert loaded.spec == model.spec
    x = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        assert loaded(x).shape == (2, 3)
        assert torch.equal(loaded(x), model(x))
    (tmp_path / "out" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises((DataError, ConfigError)):
        load_classifier(tmp_path / "out")


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
