"""Kept maps are what the backbone gives, once per image; pixels for a trained one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relabel.backbones.extractor import FeatureExtractor, resolve_backbone
from relabel.datasets.partial.labels import PartialLabels, hide
from relabel.datasets.pixels.location import read_rgb
from relabel.errors import ConfigError, DataError, RelabelError
from relabel.partial import features as module
from relabel.partial.features import DONE, Features, Pixels, open_inputs, squeezed
from relabel.partial.settings import CLIP_PROMPT, CompletionSettings
from tests.builders.colours import SIDE, tiny_resnet
from tests.builders.datasets import write_pixels
from tests.builders.partial import RUNTIME, labels_of, painted, tiny_clip


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_resnet(tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PartialLabels:
    return painted(tmp_path_factory.mktemp("photos"), images=37)


@pytest.fixture
def settings(backbone: Path) -> CompletionSettings:
    return CompletionSettings(
        method="bce", backbone=str(backbone), image_size=SIDE, precision="fp32"
    )


def kept(labels: PartialLabels, settings: CompletionSettings, cache: Path, **more) -> Features:
    found = open_inputs(labels, settings, RUNTIME, cache, **more)
    assert isinstance(found, Features)
    return found


def test_a_map_is_the_backbones_coarsest(
    photos: PartialLabels, settings: CompletionSettings, tmp_path: Path
) -> None:
    found = kept(photos, settings, tmp_path)
    body = FeatureExtractor(resolve_backbone(settings.backbone), settings.backbone).eval()
    stride = max(body.strides)
    assert found.maps.shape == (37, body.channels[stride], SIDE // stride, SIDE // stride)
    for row in (0, 15, 16, 36):
        pixels = squeezed(read_rgb(photos.location(row)), SIDE)[None].float() / 255
        with torch.no_grad():
            expected = body(pixels)[stride]
        torch.testing.assert_close(
            found.batch(np.array([row])).float(), expected, rtol=2e-3, atol=2e-3
        )


def test_means_alone_are_those_of_the_maps(
    photos: PartialLabels, settings: CompletionSettings, tmp_path: Path
) -> None:
    means = kept(photos, settings, tmp_path / "means", maps=False)
    maps = kept(photos, settings, tmp_path / "maps")
    expected = maps.maps.astype(np.float64).mean((2, 3))
    np.testing.assert_allclose(means.maps[:, :, 0, 0], expected, rtol=2e-3, atol=2e-3)
    assert means.identity == maps.identity
    both = kept(photos, settings, tmp_path / "maps", maps=False)  # kept beside the maps
    np.testing.assert_array_equal(both.maps, means.maps)


def test_means_that_are_in_use_outlast_the_maps_that_are_added(
    photos: PartialLabels, settings: CompletionSettings, tmp_path: Path
) -> None:
    means = kept(photos, settings, tmp_path, maps=False)
    before = np.array(means.maps)
    maps = kept(photos, settings, tmp_path)
    assert maps.maps.shape[2] > 1
    np.testing.assert_array_equal(means.maps, before)  # a file cut under it would end the process
    assert not list(tmp_path.rglob("*.part"))


def test_maps_do_not_depend_on_labels_seeds_or_methods(
    photos: PartialLabels,
    settings: CompletionSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = kept(photos, settings, tmp_path)
    monkeypatch.setattr(module, "build_body", lambda _: pytest.fail("computed again"))
    other = replace(settings, method="hst", seed=4, lr=0.5)
    again = kept(hide(photos, 0.3, 1), other, tmp_path)
    np.testing.assert_array_equal(again.maps, first.maps)
    monkeypatch.undo()
    larger = replace(settings, image_size=2 * SIDE)
    assert kept(photos, larger, tmp_path).maps.shape[2] == 2 * first.maps.shape[2]


def test_a_run_that_was_cut_off_goes_on_where_it_was(
    photos: PartialLabels,
    settings: CompletionSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = kept(photos, settings, tmp_path / "whole")
    monkeypatch.setattr(module, "_BETWEEN_NOTES", 1)
    seen: list[str] = []

    def read(location: str) -> np.ndarray:
        seen.append(location)
        if len(seen) == 20:
            raise KeyboardInterrupt
        return read_rgb(location)

    monkeypatch.setattr(module, "read_rgb", read)
    with pytest.raises(KeyboardInterrupt):
        kept(photos, settings, tmp_path / "cut")
    part = next((tmp_path / "cut").rglob(f"{module.MAPS}.part"))
    with part.open("ab") as stream:  # written, but not noted
        stream.write(b"x" * 1000)
    again = kept(photos, settings, tmp_path / "cut")
    np.testing.assert_array_equal(again.maps, whole.maps)
    assert len(seen) == 20 + (37 - 16)  # the first batch of 16 was finished


def test_images_that_cannot_be_read(settings: CompletionSettings, tmp_path: Path) -> None:
    labels = painted(tmp_path / "photos", images=6)
    Path(labels.location(2)).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"002\.png"):
        open_inputs(labels, settings, RUNTIME, tmp_path / "cache")
    skipping = replace(RUNTIME, skip_bad=True)
    for chosen in (settings, replace(settings, frozen=False)):
        found = open_inputs(labels, chosen, skipping, tmp_path / "cache")
        assert found.readable.tolist() == [True, True, False, True, True, True]
        assert not found.batch(np.array([2])).any()
        assert found.batch(np.array([3])).any()
    with pytest.raises(DataError, match=r"002\.png"):  # kept maps are there now
        open_inputs(labels, settings, RUNTIME, tmp_path / "cache")


def test_a_damaged_folder_is_one_line(
    photos: PartialLabels, settings: CompletionSettings, tmp_path: Path
) -> None:
    kept(photos, settings, tmp_path)
    folder = next(p.parent for p in tmp_path.rglob(DONE))
    (folder / module.MAPS).write_bytes(b"short")
    with pytest.raises(DataError, match="has not the size"):
        kept(photos, settings, tmp_path)
    for name, match in ((DONE, "not a description"), (module.PART, "not a note")):
        (folder / DONE).unlink(missing_ok=True)
        (folder / name).write_text("{}")
        with pytest.raises(DataError, match=match):
            kept(photos, settings, tmp_path)


def test_maps_that_do_not_fit_on_the_disk_are_refused_before(
    photos: PartialLabels,
    settings: CompletionSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = module.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RelabelError, match="GB are free"):
        kept(photos, settings, tmp_path)


def test_no_image_is_one_line(settings: CompletionSettings, tmp_path: Path) -> None:
    labels = labels_of(np.zeros((0, 2)), root=tmp_path)
    with pytest.raises(DataError, match="has no image"):
        open_inputs(labels, settings, RUNTIME, tmp_path)


def test_selected_rows_are_those_images(
    photos: PartialLabels, settings: CompletionSettings, tmp_path: Path
) -> None:
    for chosen in (settings, replace(settings, frozen=False)):
        found = open_inputs(photos, chosen, RUNTIME, tmp_path)
        some = found.select(np.array([5, 30])).select(np.array([1]))
        torch.testing.assert_close(some.batch(np.array([0])), found.batch(np.array([30])))


def test_training_pixels_are_crops_of_the_seed(
    settings: CompletionSettings, tmp_path: Path
) -> None:
    """Each pixel of the picture says where it is, so that a crop can be told."""
    y, x = np.mgrid[:64, :64]
    write_pixels(tmp_path / "0.png", np.stack([4 * y, 4 * x, y * 0], axis=2).astype(np.uint8))
    labels = labels_of([[1]], root=tmp_path, file_names=["0.png"])
    found = open_inputs(labels, replace(settings, frozen=False), RUNTIME, tmp_path)
    assert isinstance(found, Pixels)
    row = np.array([0])
    whole = found.batch(row)
    assert whole.shape == (1, 3, SIDE, SIDE) and whole.dtype == torch.uint8
    torch.testing.assert_close(found.batch(row, seed=[1, 2]), found.batch(row, seed=[1, 2]))
    spans, mirrored = set(), set()
    for step in range(30):
        view = found.batch(row, seed=[0, step])[0].int()
        height = int(view[0].max() - view[0].min())
        width = int(view[1].max() - view[1].min())
        assert abs(height - width) <= 8  # a square picture has square crops
        spans.add(round(height / 32))
        mirrored.add(bool(view[1, 0, 0] > view[1, 0, -1]))
    assert mirrored == {False, True}
    assert {4, 8} <= spans <= {3, 4, 5, 6, 7, 8}


def test_clips_cells_are_in_the_space_of_texts(photos: PartialLabels, tmp_path: Path) -> None:
    """With a last block that only adds the attention's values, cells equal the class token's."""
    folder = tiny_clip(tmp_path / "clip")
    settings = CompletionSettings(
        method=CLIP_PROMPT, backbone=str(folder), image_size=SIDE, precision="fp32"
    )
    found = kept(photos.select([0, 1]), settings, tmp_path / "cache")
    assert found.maps.shape == (2, 16, SIDE // 8, SIDE // 8)
    from transformers import CLIPVisionModelWithProjection

    model: Any = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    last = model.vision_model.encoder.layers[-1]
    pixels = squeezed(read_rgb(photos.location(0)), SIDE)[None].float() / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    attention = last.self_attn

    def itself(hidden_states, attention_mask=None, **_):
        return attention.out_proj(attention.v_proj(hidden_states)), None

    attention.forward = itself  # every token attends to itself alone
    with torch.no_grad():
        states = model((pixels - mean) / std).last_hidden_state
        cells = model.visual_projection(model.vision_model.post_layernorm(states[:, 1:]))
    expected = cells.transpose(1, 2).view(1, 16, SIDE // 8, SIDE // 8)
    torch.testing.assert_close(found.batch(np.array([0])).float(), expected, rtol=5e-3, atol=5e-3)


def test_clip_is_not_trained(tmp_path: Path, photos: PartialLabels) -> None:
    settings = CompletionSettings(method=CLIP_PROMPT, backbone="none", frozen=False)
    with pytest.raises(ConfigError, match="trains prompts"):
        open_inputs(photos, settings, RUNTIME, tmp_path)
