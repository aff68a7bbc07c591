from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from relabel.datasets.labelspace import Category, LabelSpace
from relabel.detectors.load import load_detector
from relabel.detectors.sam3.detector import Sam3Detector, merge_prompts, why_unavailable
from relabel.detectors.sam3.settings import Sam3Settings, class_prompts
from relabel.errors import ConfigError, DataError
from tests.builders.sam3 import QUERIES, tiny_sam3

SPACE = LabelSpace(
    "street",
    (
        Category(1, "person", prompt="a person"),
        Category(2, "void", ignore=True),
        Category(3, "bus_small"),
        Category(4, "car"),
    ),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sam3(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in ((48, 64), (90, 40))]


def settings(weights: Path, **values: object) -> Sam3Settings:
    return Sam3Settings(model=str(weights), precision="fp32", **values)  # type: ignore[arg-type]


def test_prompts_are_those_of_the_space_or_names_in_words() -> None:
    assert class_prompts(SPACE) == ["a person", "bus small", "car"]
    names = ["vehicle.bus-rigid", "???", "Zug"]
    assert class_prompts(LabelSpace.from_names("s", names)) == ["vehicle bus rigid", "???", "Zug"]


def test_same_boxes_and_scores_as_transformers_gives_prompt_by_prompt(
    weights: Path, images: list[np.ndarray]
) -> None:
    import torch
    from transformers import Sam3Model, Sam3Processor

    model = Sam3Model.from_pretrained(weights).eval()
    processor = Sam3Processor.from_pretrained(weights)
    # A batch of prompts that splits an image's prompts over two passes.
    detector = Sam3Detector.load(SPACE, settings(weights, merge_iou=1.0, prompt_batch=2), "cpu")
    found = detector.predict(images)
    for image, detections in zip(images, found, strict=True):
        assert detections.boxes.dtype == detections.scores.dtype == np.float32
        assert (np.count_nonzero(detections.scores, axis=1) == 1).all()
        assert (np.diff(detections.scores.max(axis=1)) <= 0).all()
        for c, prompt in enumerate(class_prompts(SPACE)):
            inputs = processor(images=image, text=prompt, return_tensors="pt")
            with torch.inference_mode():
                outputs = model(**inputs)
            expected = processor.post_process_object_detection(
                outputs, threshold=0.01, target_sizes=[image.shape[:2]]
            )[0]
            mine = detections.scores[:, c] > 0
            order = expected["scores"].argsort(descending=True)
            limits = np.array([image.shape[1], image.shape[0]] * 2)
            boxes = np.clip(expected["boxes"][order].numpy(), 0, limits)
            assert 1 < mine.sum() <= QUERIES
            np.testing.assert_allclose(
                detections.scores[mine, c], expected["scores"][order].numpy(), atol=1e-5
            )
            np.testing.assert_allclose(detections.boxes[mine], boxes, atol=1e-2)
    # The random model does tell prompts and images apart: nothing above was equal by chance.
    first = [d.scores[d.scores[:, 0] > 0, 0][:3] for d in found]
    assert not np.allclose(first[0], first[1], atol=1e-4)
    by_prompt = [found[0].scores[found[0].scores[:, c] > 0, c][:3] for c in (0, 2)]
    assert not np.allclose(by_prompt[0], by_prompt[1], atol=1e-4)


def test_the_vision_encoder_runs_once_per_batch_and_masks_never(
    weights: Path, images: list[np.ndarray]
) -> None:
    detector = Sam3Detector.load(SPACE, settings(weights, prompt_batch=4), "cpu")
    sizes: list[int] = []
    detector.model.vision_encoder.register_forward_hook(
        lambda module, args, output: sizes.append(len(args[0]))
    )
    detector.predict(images)
    assert sizes == [2]
    assert not list(detector.model.mask_decoder.parameters())
    assert not list(detector.model.text_encoder.parameters())
    assert detector.predict([]) == []


def test_bf16_stays_near_fp32(weights: Path, images: list[np.ndarray]) -> None:
    exact = Sam3Detector.load(SPACE, settings(weights, merge_iou=1.0), "cpu").predict(images[:1])
    low = Sam3Settings(model=str(weights), precision="bf16", merge_iou=1.0)
    rough = Sam3Detector.load(SPACE, low, "cpu").predict(images[:1])
    assert len(exact[0]) == len(rough[0])
    assert abs(exact[0].scores.max() - rough[0].scores.max()) < 0.05
    assert rough[0].scores.dtype == np.float32


def test_another_image_size(weights: Path, images: list[np.ndarray]) -> None:
    detector = Sam3Detector.load(SPACE, settings(weights, image_size=56), "cpu")
    found = detector.predict(images)
    assert all(len(d) for d in found)
    assert (found[1].boxes[:, 2] <= 40).all() and (found[1].boxes[:, 3] <= 90).all()
    with pytest.raises(ConfigError, match="multiple of its patch of 14 pixels, such as 98"):
        Sam3Detector.load(SPACE, settings(weights, image_size=100), "cpu")


def test_merging_makes_one_box_of_what_several_prompts_found() -> None:
    boxes = np.array([[0, 0, 100, 10], [0, 0, 100, 10], [0, 0, 96, 10], [0, 0, 80, 10]], float)
    scores, label = np.array([0.9, 0.6, 0.5, 0.4]), np.array([0, 1, 1, 2])
    merged, vectors = merge_prompts(boxes, scores, label, 3, 0.9)
    np.testing.assert_allclose(merged, boxes[[0, 3]])
    np.testing.assert_allclose(vectors, [[0.9, 0.6, 0], [0, 0, 0.4]])
    assert len(merge_prompts(boxes, scores, label, 3, 1.0)[0]) == 4
    none, empty = merge_prompts(np.zeros((0, 4)), scores[:0], label[:0], 3, 0.9)
    assert none.shape == (0, 4) and empty.shape == (0, 3)


def test_a_saved_labeller_is_a_checkpoint(
    weights: Path, images: list[np.ndarray], tmp_path: Path
) -> None:
    detector = Sam3Detector.load(SPACE, settings(weights), "cpu")
    detector.save(tmp_path / "prompted_detector")
    again = load_detector(tmp_path / "prompted_detector", device="cpu")
    assert again.space == SPACE
    np.testing.assert_array_equal(
        again.predict(images)[0].scores, detector.predict(images)[0].scores
    )


def published(weights: Path, folder: Path, leave_out: str = "") -> Path:
    """The checkpoint as it is published: the video model's, with the detector inside it."""
    from safetensors.torch import load_file, save_file

    for file in weights.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((weights / "config.json").read_text())
    video = {"model_type": "sam3_video", "detector_config": config}
    (folder / "config.json").write_text(json.dumps(video))
    tensors = load_file(weights / "model.safetensors")
    named = {f"detector_model.{k}": v for k, v in tensors.items() if k != leave_out}
    named["tracker_model.weight"] = tensors["detr_decoder.query_embed.weight"].clone()
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_published_checkpoints_hold_the_video_model(
    weights: Path, images: list[np.ndarray], tmp_path: Path
) -> None:
    folder = published(weights, tmp_path)
    assert why_unavailable(str(folder)) is None
    expected = Sam3Detector.load(SPACE, settings(weights, image_size=56), "cpu").predict(images)
    found = Sam3Detector.load(SPACE, settings(folder, image_size=56), "cpu").predict(images)
    np.testing.assert_array_equal(found[0].scores, expected[0].scores)


def test_a_checkpoint_that_lacks_weights_is_refused(weights: Path, tmp_path: Path) -> None:
    name = "detr_decoder.presence_token.weight"
    folder = published(weights, tmp_path, leave_out=name)
    with pytest.raises(DataError, match=f"lacks 1 weights, the first is {name}"):
        Sam3Detector.load(SPACE, settings(folder), "cpu")


def test_a_prompt_too_long_and_a_space_without_classes(weights: Path) -> None:
    long = LabelSpace("s", (Category(1, "car", prompt="carcar" * 6),))
    with pytest.raises(ConfigError, match="prompt of category 'car' has 38 tokens, SAM 3 reads 32"):
        Sam3Detector.load(long, settings(weights), "cpu")
    empty = LabelSpace("s", (Category(1, "void", ignore=True),))
    with pytest.raises(ConfigError, match="no classes to prompt for"):
        Sam3Detector.load(empty, settings(weights), "cpu")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda f: f.rename(f.with_name("gone")), "there is no such folder"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no safetensors weights"),
        (lambda f: (f / "config.json").write_text("{"), "not valid"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "a 'bert' model"),
    ],
)
def test_unusable_folders_say_why_and_what_to_do(tmp_path: Path, spoil: object, text: str) -> None:
    folder = tmp_path / "sam3"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "sam3"}')
    (folder / "model.safetensors").write_bytes(b"")
    assert why_unavailable(str(folder)) is None
    spoil(folder)  # type: ignore[operator]
    reason = why_unavailable(str(folder))
    assert reason is not None and text in reason
    assert "hf auth login" in reason and "local" in reason and "\n" not in reason
    with pytest.raises(DataError, match="are not available"):
        Sam3Detector.load(SPACE, replace(Sam3Settings(), model=str(folder)), "cpu")


def test_a_hub_model_that_cannot_be_had_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    response: Any = SimpleNamespace(headers={}, request=None, status_code=403)
    for error, text in (
        (GatedRepoError("gated", response=response), "licence has not been accepted"),
        (RepositoryNotFoundError("gone", response=response), "no such model, or it is private"),
        (ConnectionError("no route\nto host"), "the hub cannot be reached (no route)"),
    ):

        def refuse(*args: object, error: Exception = error, **kwargs: object) -> None:
            raise error

        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
        reason = why_unavailable("facebook/sam3")
        assert reason is not None and text in reason
        assert "'facebook/sam3' are not available" in reason
        assert "https://huggingface.co/facebook/sam3" in reason and "hf auth login" in reason
    assert "no such model" in (why_unavailable("not/a/hub/id") or "")


def test_a_model_in_the_hubs_cache_needs_no_network(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda model, name: str(weights / name)
    )
    assert why_unavailable("facebook/sam3") is None
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda model, name: str(tmp_path / name)
    )
    assert "it is a 'bert' model" in (why_unavailable("facebook/sam3") or "")


def test_settings_that_do_not_change_boxes_are_no_part_of_their_fingerprint() -> None:
    base = Sam3Settings()
    assert replace(base, threshold=0.3, prompt_batch=2).result_dict() == base.result_dict()
    assert replace(base, image_size=504).result_dict() != base.result_dict()
    assert base.result_dict({"facebook/sam3": "x"})["model"] == "x"
    with pytest.raises(ConfigError, match="merge_iou is 0"):
        Sam3Settings(merge_iou=0.5)
