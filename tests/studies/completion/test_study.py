"""The comparison of methods: protocol, plan, resuming and numbers, with a fake trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relabel.catalogue.catalogue import Catalogue, load_catalogue
from relabel.datasets.partial.labels import PartialLabels, hide, sparse_known
from relabel.errors import ConfigError, DataError
from relabel.evaluation.multilabel.entries import measure_entries
from relabel.partial.settings import CompletionSettings
from relabel.settings import Runtime
from relabel.studies.completion import results
from relabel.studies.completion.arms import REFIT, CompletionArm, known_methods, resolve_arms
from relabel.studies.completion.measure import measure_scores
from relabel.studies.completion.protocol import CompletionProtocol, read_completion_protocol
from relabel.studies.completion.run import (
    CompletionPlan,
    Scored,
    Subject,
    finished,
    run_completion_plan,
)

RUNTIME = Runtime(quiet=True)


def labels_of(name: str, images: int, seed: int, classes: int = 4) -> PartialLabels:
    rng = np.random.default_rng(seed)
    known = rng.choice([-1, 1], (images, classes), p=[0.6, 0.4]).astype(np.int8)
    names = tuple(f"c{i}" for i in range(classes))
    files = [f"{name}{i}.png" for i in range(images)]
    return PartialLabels(name, None, files, names, sparse_known(known))


class FakeTrainer:
    """Scores that are the truth and noise: less of it for "hst", and for refitted ones."""

    noise: Mapping[str, float] = {"hst": 0.4, "bce": 1.5}

    def __init__(self, fail_at: int = 10**9) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.fail_at = fail_at

    def __call__(
        self,
        labels: PartialLabels,
        test: PartialLabels | None,
        settings: CompletionSettings,
        folder: Path,
        cache: Path,
        runtime: Runtime,
    ) -> Mapping[str, Scored]:
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append((settings.method, int(labels.known.nnz), settings.seed))
        folder.mkdir(parents=True)
        (folder / "weights").write_text("x")
        rng = np.random.default_rng(settings.seed)
        found = {}
        for variant, factor in (("", 1.0), (REFIT, 0.5)):
            noise = factor * self.noise[settings.method] * 100 / (labels.known.nnz + 20)
            scores = [
                full.dense() + noise * rng.normal(size=(len(full), full.num_classes))
                for full in (TRAIN, TEST)
            ]
            found[variant] = Scored(scores[0], None if test is None else scores[1])
        return found


TRAIN, TEST = labels_of("train", 40, 0), labels_of("test", 30, 1)


def plan_of(out: Path, **more: Any) -> CompletionPlan:
    arms = (CompletionArm("hst", {"method": "hst"}), CompletionArm("bce", {"method": "bce"}))
    given: dict[str, Any] = {
        "subjects": [Subject("photos", TRAIN, TEST)],
        "arms": arms,
        "proportions": (0.1, 0.5),
        "seeds": (0, 1),
        "base": CompletionSettings(backbone="tiny"),
    }
    given |= more
    return CompletionPlan(
        given["subjects"], given["arms"], given["proportions"], given["seeds"], out, given["base"]
    )


def run(plan: CompletionPlan, trainer: FakeTrainer, **more: Any) -> None:
    run_completion_plan(plan, trainer, measure_scores, RUNTIME, **more)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> CompletionPlan:
    plan = plan_of(tmp_path_factory.mktemp("study"))
    run(plan, FakeTrainer())
    return plan


def test_every_training_once_seed_by_seed(done: CompletionPlan) -> None:
    assert [(c.seed, c.proportion, c.arm.name) for c in done.cells[:5]] == [
        (0, 0.1, "hst"),
        (0, 0.1, "bce"),
        (0, 0.5, "hst"),
        (0, 0.5, "bce"),
        (1, 0.1, "hst"),
    ]
    assert len(done.cells) == 8 and not list(done.out.rglob("weights"))
    trainer = FakeTrainer()
    run(plan_of(done.out), trainer)
    assert trainer.calls == []


def test_an_interrupted_comparison_goes_on_and_ends_alike(
    tmp_path: Path, done: CompletionPlan
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(plan_of(tmp_path), FakeTrainer(fail_at=3))
    rest = FakeTrainer()
    run(plan_of(tmp_path), rest)
    assert len(rest.calls) == 5
    found = results.collect(plan_of(tmp_path), title="x", reference="hst")
    whole = results.collect(done, title="x", reference="hst")
    for content in (found, whole):
        content["datasets"]["photos"].pop("seconds")
    assert found == whole


def test_changed_settings_are_refused(done: CompletionPlan) -> None:
    changed = plan_of(done.out, base=CompletionSettings(backbone="tiny", lr=0.5))
    with pytest.raises(Exception, match=r"settings\.lr: 0\.001 → 0\.5"):
        run(changed, FakeTrainer())


def test_numbers_are_those_of_a_direct_evaluation(done: CompletionPlan) -> None:
    cell = next(c for c in done.cells if c.arm.name == "bce" and c.proportion == 0.5 and c.seed)
    found = finished(cell)
    assert found is not None
    labels = hide(TRAIN, 0.5, 1)
    again = FakeTrainer()(labels, TEST, cell.settings, done.out / "again", Path(), RUNTIME)[""]
    hidden = measure_entries(TRAIN.known, again.train, known=labels.known)
    assert again.test is not None
    tested = measure_entries(TEST.known, again.test)
    entry = found["variants"][""]
    assert entry["unknown"] == {"mAP": hidden.mAP, "CF1": hidden.CF1, "OF1": hidden.OF1}
    assert entry["test"]["mAP"] == tested.mAP
    assert found["known"] + found["hidden"] == 160


def test_averages_and_paired_intervals(done: CompletionPlan) -> None:
    content = results.collect(done, title="x", reference="hst")
    dataset = content["datasets"]["photos"]
    assert list(dataset["rows"]) == ["hst", "hst+refit", "bce", "bce+refit"]
    table = dataset["rows"]["bce"]["test"]["mAP"]
    by_seed = [np.mean([table["values"][p][s] for p in ("10", "50")]) for s in ("0", "1")]
    assert table["average"]["mean"] == pytest.approx(np.mean(by_seed))
    assert table["average"]["std"] == pytest.approx(np.std(by_seed, ddof=1))
    change = dataset["intervals"]["test"]["bce"]["hst"]
    hst = dataset["rows"]["hst"]["test"]["mAP"]["average"]["mean"]
    assert change["mean"] == pytest.approx(table["average"]["mean"] - hst)
    assert change["low"] < change["mean"] < change["high"] < 0 and change["excludes_zero"]
    assert dataset["intervals"]["test"]["hst+refit"]["bce"]["mean"] > 0
    assert "hst" not in dataset["intervals"]["test"]["hst"]
    assert dataset["missing"] == []


def test_means_over_datasets(tmp_path: Path) -> None:
    subjects = [Subject("photos", TRAIN, TEST), Subject("more", TRAIN, None, {"epochs": 2.0})]
    plan = plan_of(tmp_path, subjects=subjects)
    assert {(c.subject.name, c.settings.epochs) for c in plan.cells} == {
        ("photos", 10),
        ("more", 2),
    }
    run(plan, FakeTrainer())
    content = results.collect(plan, title="x", reference="hst")
    header, rows = results.overall_table(content)
    expected = [f"{n}, {w}" for w in ("test", "hidden") for n in ("photos", "more", "mean")]
    assert header == ["method", *expected]
    found = dict(zip(header, rows[2], strict=True))
    assert found["method"] == "bce" and found["more, test"] == found["mean, test"] == "-"
    both = [
        content["datasets"][name]["rows"]["bce"]["unknown"]["mAP"]["average"]["mean"]
        for name in ("photos", "more")
    ]
    assert found["mean, hidden"] == f"{100 * np.mean(both):.1f}"
    text = results.write_completion(content, tmp_path, "x")["markdown"].read_text()
    assert "means over the datasets" in text and "Here epochs = 2.0." in text
    title, (short, first) = results.shown_tables(content)[0]
    assert title.startswith("Average mAP") and short == ["method", "mean, test", "mean, hidden"]
    assert [row[0] for row in first] == [row[0] for row in rows] and len(first[0]) == 3
    one = {**content, "datasets": {"photos": content["datasets"]["photos"]}}
    assert results.overall_table(one)[1] == []


def test_an_interval_of_equal_scores_is_zero_and_none_without_a_common_training() -> None:
    one = {(0.1, 0): np.array([0.5, 0.4, 0.6, 0.5]), (0.5, 0): np.array([0.7, 0.7, np.nan, 0.8])}
    found = results.paired_interval(one, one)
    assert found is not None and (found.mean, found.low, found.high) == (0, 0, 0)
    assert results.paired_interval(one, {(0.1, 1): one[0.1, 0]}) is None


def test_written_table_plot_and_what_is_missing(tmp_path: Path, done: CompletionPlan) -> None:
    plan = plan_of(done.out, seeds=(0, 1, 2))
    content = results.collect(plan, title="Photos | all", reference="hst")
    files = results.write_completion(content, tmp_path, "relabel evaluate completion")
    text = files["markdown"].read_text(encoding="utf-8")
    assert "| hst+refit |" in text and "Not finished: 4 trainings." in text
    assert "| method | 10 % | 50 % | average |" in text
    assert json.loads(files["json"].read_text())["datasets"]["photos"]["test_images"] == 30
    assert {p.name for p in tmp_path.glob("*.svg")} == {"photos_test.svg", "photos_unknown.svg"}
    titles = [title for title, _ in results.shown_tables(content)]
    assert any("hidden labels" in title for title in titles)


def test_without_test_images_and_truth(tmp_path: Path) -> None:
    subject = Subject("photos", TRAIN, None)
    plan = plan_of(tmp_path, subjects=[subject], proportions=(1.0,), seeds=(0,))
    run(plan, FakeTrainer())
    content = results.collect(plan, title="x", reference="hst")
    row = content["datasets"]["photos"]["rows"]["hst"]
    assert row["test"]["mAP"]["average"] is None and row["unknown"]["mAP"]["average"] is None
    assert content["datasets"]["photos"]["intervals"] == {"test": {}, "unknown": {}}
    results.write_completion(content, tmp_path, "x")
    nothing = PartialLabels("n", None, ["a"], ("c",), sparse_known(np.zeros((1, 1), np.int8)))
    with pytest.raises(DataError, match="no label"):
        run(plan_of(tmp_path / "2", subjects=[Subject("n", nothing, None)]), FakeTrainer())


def test_a_share_without_hidden_labels_leaves_the_average_of_the_others(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, proportions=(0.5, 1.0))
    run(plan, FakeTrainer())
    dataset = results.collect(plan, title="x", reference="hst")["datasets"]["photos"]
    found = dataset["rows"]["hst"]["unknown"]["mAP"]
    assert found["means"]["100"] is None
    assert found["average"] == found["means"]["50"]
    change = dataset["intervals"]["unknown"]["bce"]["hst"]["mean"]
    bce = dataset["rows"]["bce"]["unknown"]["mAP"]["average"]["mean"]
    assert change == pytest.approx(bce - found["average"]["mean"])


def test_datasets_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    for names, match in ((("a", "a"), "two datasets"), (("features",), "is called 'features'")):
        subjects = [Subject(name, TRAIN, TEST) for name in names]
        with pytest.raises(ConfigError, match=match):
            plan_of(tmp_path, subjects=subjects)


def test_a_damaged_file_of_resamples_is_named(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, proportions=(0.5,), seeds=(0,))
    run(plan, FakeTrainer())
    file = plan.cells[0].stage.folder / "resamples.npz"
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(DataError, match=r"resamples\.npz"):
        results.collect(plan, title="x", reference="hst")


def test_arms() -> None:
    tables = {"hst-plain": {"method": "hst", "without": ["ist", "cst"]}, "sr": {"lr": 0.01}}
    found = resolve_arms(["bce", "hst-plain", "bce", "sr"], tables)
    assert [arm.name for arm in found] == ["bce", "hst-plain", "sr"]
    base = CompletionSettings(lr=0.3)
    assert found[1].settings(base, 5).without == ("ist", "cst")
    assert found[1].settings(base, 5).seed == 5 and found[1].settings(base, 5).lr == 0.3
    assert found[2].settings(base, 0).method == "sr" and found[2].settings(base, 0).lr == 0.01
    for names, wrong, match in (
        (["hstt"], {}, "hst"),
        (["x"], {"x": {"lr": 0.1}}, "no method"),
        (["x"], {"x": {"method": "hst", "seed": 1}}, "seed"),
        (["x"], {"x": {"methods": "hst"}}, "unknown setting"),
        (["../x"], {"../x": {"method": "hst"}}, r"cannot be called '\.\./x'"),
        (["hst+refit"], {"hst+refit": {"method": "hst"}}, "cannot be called"),
    ):
        with pytest.raises(ConfigError, match=match):
            resolve_arms(names, wrong)


def test_protocol(tmp_path: Path) -> None:
    table = {
        "datasets": ["photos", "photos"],
        "methods": ["hst", "bce"],
        "proportions": [0.1, 1],
        "arms": {"hst-no-ist": {"method": "hst", "without": ["ist"]}},
        "settings": {"photos": {"epochs": 3}},
    }
    catalogue = Catalogue({}, {"protocol": table}, tmp_path / "relabel.toml")
    found = read_completion_protocol(catalogue)
    assert found.datasets == ("photos",) and found.proportions == (0.1, 1.0)
    assert [arm.name for arm in found.rows()] == ["hst", "bce", "hst-no-ist"]
    assert found.changes("photos") == {"epochs": 3.0} and found.changes("others") == {}
    typed = read_completion_protocol(catalogue, methods=["sr"], seeds=[4], proportions=[0.3])
    assert [arm.name for arm in typed.rows()] == ["sr"]
    assert typed.seeds == (4,) and typed.proportions == (0.3,)
    named = read_completion_protocol(catalogue, methods=["hst-no-ist"])
    assert [arm.name for arm in named.rows()] == ["hst-no-ist"]
    default = CompletionProtocol()
    assert default.proportions == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert {*default.methods, "clip-prompt"} == set(known_methods())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"datasets": []}, "no dataset"),
        ({"proportions": [0]}, "proportions"),
        ({"proportions": [1.5]}, "proportions"),
        ({"seeds": [-1]}, "seeds"),
        ({"methods": ["hsst"]}, "hsst"),
        ({"sets": 1}, "unknown setting"),
        ({"arms": {"x": 3}}, "arms"),
        ({"settings": {"photos": 3}}, "photos"),
        ({"settings": {"photos": {"epoch": 3}}}, "epochs"),
        ({"settings": {"photos": {"seed": 3}}}, "seed is an arm's"),
    ],
)
def test_a_wrong_protocol_is_one_line(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    table = {"datasets": ["photos"], **change}
    catalogue = Catalogue({}, {"protocol": table}, tmp_path / "relabel.toml")
    with pytest.raises(ConfigError, match=match) as caught:
        read_completion_protocol(catalogue)
    assert str(tmp_path / "relabel.toml") in str(caught.value)


PROTOCOLS = Path(__file__).resolve().parents[3] / "benchmarks" / "protocols"


@pytest.mark.parametrize("file", sorted(PROTOCOLS.glob("completion*.toml")), ids=lambda p: p.stem)
def test_the_protocols_of_benchmarks_can_be_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RELABEL_SHARED", "DEMO_WORLD", "IMAGENET_LABELS"):
        monkeypatch.delenv(name, raising=False)
    catalogue = load_catalogue(config=file)
    protocol = read_completion_protocol(catalogue)
    assert protocol.proportions == tuple(k / 10 for k in range(1, 10))
    assert len(protocol.seeds) >= 3 and len(protocol.rows()) >= 8
    for name in protocol.datasets:
        entry = catalogue.get(name)
        assert entry.has("test")
        assert "shared" in str(entry.root) or "demo_world" in str(entry.root)
    settings = CompletionSettings(**catalogue.table("complete"))
    assert settings.backbone.endswith("mobilenet_v2_imagenet")
