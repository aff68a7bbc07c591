"""Every method learns from what is known, through one interface, whatever is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from relabel.datasets.partial.labels import hide
from relabel.errors import ConfigError
from relabel.partial.methods.base import Method, Setup
from relabel.partial.methods.clip_prompt import CONTEXT, ClipPrompt, TextTower
from relabel.partial.methods.curriculum import SURE, Curriculum
from relabel.partial.methods.registry import METHODS
from relabel.partial.methods.saliency import Sr
from relabel.partial.methods.semantic import Hst, Sarb, Sst
from relabel.partial.model import load_model
from relabel.partial.predict import SOURCES, predict
from relabel.partial.settings import CLIP_PROMPT
from relabel.partial.train import train
from tests.builders.partial import (
    CELLS,
    CHANNELS,
    RUNTIME,
    average_precision,
    planted,
    quick,
    tiny_clip,
    with_known,
)

PLAIN = sorted(set(METHODS) - {CLIP_PROMPT})
CLASSES = ("a", "b", "c", "d")


def build(name: str, *, steps: int = 40, classes: tuple[str, ...] = CLASSES, **more) -> Method:
    """A method with random weights, none of them zero."""
    torch.manual_seed(3)
    c = len(classes)
    setup = Setup(
        classes,
        CHANNELS,
        torch.rand(c, c),
        torch.linspace(0.2, 0.6, c),
        torch.randn(c, 6) if METHODS[name].needs_embeddings else None,
        quick(name, embeddings="learned", **more),
        steps,
    )
    method = METHODS[name](setup)
    for parameter in method.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    weights, _ = method.last_layer()
    method.set_last_layer(torch.randn_like(weights), torch.randn(c))
    return method.eval()


def batch(images: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    maps = torch.randn(images, CHANNELS, CELLS, CELLS)
    known = torch.randint(-1, 2, (images, len(CLASSES)), dtype=torch.int8)
    return maps, known


@pytest.mark.parametrize("name", PLAIN)
def test_a_method_finds_what_was_hidden(name: str, tmp_path: Path) -> None:
    full, features = planted()
    known = hide(full, 0.4, seed=0)
    train(known, features, tmp_path / "run", quick(name), RUNTIME)
    found = predict(tmp_path / "run", features, labels=known)
    truth, hidden = full.dense() > 0, known.dense() == 0
    precisions = [
        average_precision(found.scores[hidden[:, c], c], truth[hidden[:, c], c])
        for c in range(truth.shape[1])
    ]
    assert np.mean(precisions) > 0.8  # 0.35 by chance
    np.testing.assert_array_equal(found.scores[~hidden], truth[~hidden])
    assert (found.source[~hidden] == SOURCES.index("known")).all()
    assert (found.source[hidden] != SOURCES.index("known")).all()


@pytest.mark.parametrize("name", PLAIN)
def test_a_logit_is_the_last_layer_on_what_it_reads(name: str) -> None:
    method, (maps, _) = build(name), batch()
    with torch.no_grad():
        weights, biases = method.last_layer()
        hidden = method.hidden(maps)
        if hidden.ndim == 2:
            hidden = hidden[:, None].expand(-1, len(CLASSES), -1)
        logits = torch.einsum("bch,ch->bc", hidden, weights) + biases
        torch.testing.assert_close(method.logits(maps), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PLAIN)
def test_a_last_layer_that_is_put_in_is_there(name: str) -> None:
    method = build(name)
    weights, _ = method.last_layer()
    wanted, biases = torch.randn_like(weights), torch.randn(len(CLASSES))
    method.set_last_layer(wanted, biases)
    got = method.last_layer()
    torch.testing.assert_close(got[0], wanted)
    torch.testing.assert_close(got[1], biases)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("case", ["no positive", "dark image", "all", "one class", "one label"])
def test_whatever_is_known_gives_finite_scores(name: str, case: str, tmp_path: Path) -> None:
    full, features = planted(24, 1 if case == "one class" else 3)
    known = full.dense()
    if case == "no positive":
        known[known[:, 0] > 0, 0] = 0
    elif case == "dark image":
        known[:5] = 0
    elif case == "one label":
        known[:] = 0
        known[3, 1] = 1
    labels = with_known(full, known)
    settings = quick(name, steps=8, held_back=0.2)
    train(labels, features, tmp_path / "run", settings, RUNTIME)
    found = predict(tmp_path / "run", features, labels=labels)
    assert np.isfinite(found.scores).all()
    assert found.scores.min() >= 0 and found.scores.max() <= 1
    if case == "no positive":
        assert found.scores[known[:, 0] == 0, 0].max() < 0.5


@pytest.mark.parametrize("name", ["hst", "sst", "sarb"])
def test_pseudo_labels_start_after_a_quarter_of_the_steps(name: str) -> None:
    method, (maps, known) = build(name, steps=40), batch()
    method.refresh(10, lambda: iter([(maps, known)]))
    before, after = method(maps, known, 9), method(maps, known, 10)
    extra = {
        "hst": {"ist", "cst", "ist_threshold", "cst_threshold", "prototypes"},
        "sst": {"ist", "cst"},
        "sarb": {"instances", "prototypes"},
    }[name]
    assert set(after) - set(before) == extra
    assert method.refresh_steps() == {10, 20, 30}


def test_the_losses_of_hst_are_those_of_its_completed_labels() -> None:
    method, (maps, known) = build("hst"), batch()
    assert isinstance(method, Hst) and method.ist is not None and method.cst is not None
    method.refresh(10, lambda: iter([(maps, known)]))
    method.ist_threshold.raw.data.fill_(0.5)
    method.cst_threshold.raw.data.fill_(0.02)
    with torch.no_grad():
        losses, logits = method(maps, known, 20), method.logits(maps)
        found = method.transfers(maps, known)
    for name in ("ist", "cst"):
        completed = torch.where(found[name], 1, known)
        assert (completed != known).any()
        z, told = logits[completed != 0].double(), completed[completed != 0]
        expected = torch.log1p(torch.exp(-told * z)).mean()
        assert float(losses[name]) == pytest.approx(float(expected), rel=1e-4)


def test_thresholds_move_and_stay_in_range(tmp_path: Path) -> None:
    full, features = planted()
    train(hide(full, 0.5, 0), features, tmp_path / "run", quick("hst"), RUNTIME)
    method = load_model(tmp_path / "run")[0].method
    assert isinstance(method, Hst)
    for thresholds in (method.ist_threshold, method.cst_threshold):
        values = thresholds.values
        assert ((values >= 0) & (values <= 1)).all()
        assert (values < 0.9).all()  # they start at 1


@pytest.mark.parametrize("without", [("ist",), ("cst",), ("ist", "cst"), ("dtl",)])
def test_parts_of_hst_are_left_out(without: tuple[str, ...]) -> None:
    method, (maps, known) = build("hst", without=without), batch()
    method.refresh(10, lambda: iter([(maps, known)]))
    names = set(method(maps, known, 20)) | set(method.transfers(maps, known))
    assert ("ist" in names) == ("ist" not in without)
    assert ("cst" in names) == ("cst" not in without)
    has_threshold = any(name.endswith("threshold") for name in names)
    assert has_threshold == ("dtl" not in without and len(without) < 2)


def test_hst_as_published_has_no_classifier_beside_it() -> None:
    method, (maps, known) = build("hst", without=("plain",)), batch()
    assert isinstance(method, Hst)
    torch.nn.init.zeros_(method.plain.linear.weight)  # as it is before a test fills it
    biases = method.plain.linear.bias.clone()
    sum(method(maps, known, 20).values(), torch.zeros(())).backward()
    assert method.plain.linear.weight.grad is None and method.net.classifier.weight.grad is not None
    torch.testing.assert_close(method.logits(maps), method.net(maps)[0] + biases)
    weights, _ = method.last_layer()
    assert weights.shape == method.net.classifier.weight.shape
    wanted = torch.randn_like(weights), torch.randn(len(CLASSES))
    method.set_last_layer(*wanted)
    logits = torch.einsum("bch,ch->bc", method.hidden(maps), wanted[0]) + wanted[1]
    torch.testing.assert_close(method.logits(maps), logits, rtol=1e-4, atol=1e-4)
    rates = {rate for p, rate in method.own_rates() if p is method.net.classifier.weight}
    assert rates == {quick("hst").lr}


def test_transfers_take_unknown_labels_above_their_threshold() -> None:
    method, (maps, known) = build("hst"), batch()
    assert isinstance(method, Hst) and method.ist is not None and method.cst is not None
    method.refresh(10, lambda: iter([(maps, known)]))
    method.ist_threshold.raw.data.fill_(0.5)
    method.cst_threshold.raw.data.fill_(0.02)
    with torch.no_grad():
        found = method.transfers(maps, known)
        features = method.net.features(maps)
        matrix = method.ist.matrix(features)
        similar = method.cst.scores(features)
    for b in range(len(maps)):
        present = [i for i in range(len(CLASSES)) if known[b, i] > 0]
        for c in range(len(CLASSES)):
            score = np.mean([float(matrix[b, i, c]) for i in present]) if present else 0.0
            assert bool(found["ist"][b, c]) == (int(known[b, c]) == 0 and score > 0.5)
            likes = int(known[b, c]) == 0 and float(similar[b, c]) > 0.02
            assert bool(found["cst"][b, c]) == likes
    assert found["cst"].any()


def test_the_threshold_of_sst_falls_by_its_schedule() -> None:
    method = build("sst", steps=200)
    assert isinstance(method, Sst)
    # Published: 0.95 from epoch 5 of 20, 0.025 less each epoch, at least 0.75.
    epochs = {5: 0.95, 6: 0.925, 10: 0.825, 13: 0.75, 19: 0.75}
    for epoch, threshold in epochs.items():
        assert method.falling(epoch * 10) == pytest.approx(threshold)


def test_a_curriculum_learns_from_what_the_last_round_was_sure_of() -> None:
    method, (maps, known) = build("curriculum"), batch()
    assert isinstance(method, Curriculum)
    pooled = 4 * maps.mean((2, 3), keepdim=True)
    loss = method(pooled, known, 0)["bce"]
    method.refresh(10, lambda: iter([]))
    logits = method.logits(pooled).detach()
    total, count = 0.0, 0
    for z, told in zip(logits.flatten().tolist(), known.flatten().tolist(), strict=True):
        label = told or (np.sign(z) if abs(z) > SURE else 0)
        if label:
            total += np.log1p(np.exp(-label * z))
            count += 1
    assert count > int((known != 0).sum())
    assert float(method(pooled, known, 11)["bce"].detach()) == pytest.approx(total / count, 1e-5)
    assert float(loss.detach()) != pytest.approx(total / count, 1e-3)


def test_the_strong_view_of_sr_learns_the_weak_views_labels() -> None:
    method, (maps, known) = build("sr", steps=40), batch()
    assert isinstance(method, Sr)
    method.eval()
    assert set(method(maps, known, 3)) == {"bce"}
    losses = method(maps, known, 12)
    assert float(losses["consistency"].detach()) > 0
    everything = torch.where(known == 0, torch.ones_like(known), known)
    assert float(method(maps, everything, 12)["consistency"].detach()) == 0


def test_sarb_blends_nothing_where_all_is_known() -> None:
    method, (maps, known) = build("sarb"), batch()
    assert isinstance(method, Sarb)
    known = torch.where(known == 0, torch.ones_like(known), known)
    method.refresh(10, lambda: iter([(maps, known)]))
    losses = method(maps, known, 20)
    for name in ("instances", "prototypes"):
        torch.testing.assert_close(losses[name], losses["bce"])


def test_sarb_takes_a_prototypes_logit_for_the_mean_of_its_images() -> None:
    method, (maps, known) = build("sarb"), batch()
    assert isinstance(method, Sarb)
    with torch.no_grad():
        method.refresh(10, lambda: iter([(maps[:4], known[:4]), (maps[4:], known[4:])]))
        plain = method.plain(maps)
    for c in range(len(CLASSES)):
        shown = plain[known[:, c] > 0, c]
        assert float(method.typical[c]) == pytest.approx(float(shown.mean()), abs=1e-5)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def test_learned_vectors_stand_where_words_would(clip: Path) -> None:
    tower = TextTower(str(clip), ["red car"])
    table = tower.embedding.weight
    chosen = torch.arange(CONTEXT) + 40  # tokens that could be the text
    text = torch.cat([tower.tokens[:, :1], chosen[None], tower.tokens[:, 1 + CONTEXT :]], dim=1)
    with torch.no_grad():
        found = tower(table[chosen][None])[0]
        tower._context = table[chosen]
        expected = tower.net(input_ids=text).text_embeds
    torch.testing.assert_close(found, expected)
    tower._context = torch.zeros(CONTEXT, table.shape[1])
    assert not torch.allclose(found, tower.net(input_ids=text).text_embeds)


def test_prompts_are_learned_and_need_no_text_tower_afterwards(clip: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    full, features = planted(40, 3)
    # Planted maps have as many channels as this CLIP's common space.
    features = replace(features, identity="clip")
    settings = quick(CLIP_PROMPT, backbone=str(clip), steps=60, lr=3e-3)
    known = hide(full, 0.7, 0)
    train(known, features, tmp_path / "run", settings, RUNTIME)
    model, _, _ = load_model(tmp_path / "run")
    method = model.method
    assert isinstance(method, ClipPrompt) and not method._tower
    maps = model.maps(features.batch(np.arange(40)))
    with torch.no_grad():
        kept = method.logits(maps)
        assert not method._tower
        torch.testing.assert_close(
            kept, method._logits(maps, method._features()), rtol=1e-4, atol=1e-4
        )
        fresh = ClipPrompt(_setup(method, str(clip))).train()
        told = torch.from_numpy(known.dense())
        before, after = (m(maps, told, 0)["asl"] for m in (fresh, method))
    assert float(after) < 0.8 * float(before)


def _setup(method: ClipPrompt, source: str) -> Setup:
    names = tuple(method.names)
    nothing = torch.zeros(len(names), len(names))
    settings = quick(CLIP_PROMPT, backbone=source)
    return Setup(names, CHANNELS, nothing, nothing[0], None, settings, 1, method.width)


def test_the_prompts_logit_by_a_direct_loop(clip: Path) -> None:
    torch.manual_seed(0)
    maps, texts = torch.randn(2, CHANNELS, 2, 2), torch.randn(2, 3, CHANNELS)
    found = ClipPrompt._logits(ClipPrompt.__new__(ClipPrompt), maps, texts)
    for b in range(2):
        for c in range(3):
            cells = maps[b].flatten(1).T.double()
            cosine = torch.nn.functional.cosine_similarity
            both = [20 * cosine(cells, t[None].double()) for t in (texts[0, c], texts[1, c])]
            weights = both[1].exp() / both[1].exp().sum()
            logit = 5 * float((weights * (both[1] - both[0])).sum())
            assert float(found[b, c]) == pytest.approx(logit, abs=1e-3)


def test_a_name_that_is_too_long_for_clip_is_one_line(clip: Path) -> None:
    with pytest.raises(ConfigError, match="too many tokens"):
        TextTower(str(clip), ["x" * 60])
