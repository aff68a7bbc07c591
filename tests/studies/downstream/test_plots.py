"""What the plots show, and that nothing in them lies on anything else."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relabel.reports.charts import save_figure
from relabel.studies.downstream import plots
from relabel.studies.downstream.results import ArmResult, Comparison, Metrics

TEN = [
    *("target-only", "naive", "normalized", "pseudo", "overlap"),
    *("student-teacher", "unified", "lat", "lat+sam3", "oracle"),
]


def metrics(ap: float, per_class: dict[str, float | None]) -> Metrics:
    return {"AP": ap, "AP50": ap, "AP75": ap, "per_class": per_class}


def made(
    arms: list[str], seeds: list[int], classes: int, missing: dict[str, int] | None = None
) -> Comparison:
    rng = random.Random(0)
    found = {}
    for name in arms:
        mine = [s for s in seeds if s != (missing or {}).get(name)]
        ap = tuple(0.2 + rng.uniform(-0.02, 0.05) for _ in mine)
        found[name] = ArmResult(
            {
                seed: metrics(v, {f"vehicle number {k}": v if k else None for k in range(classes)})
                for seed, v in zip(mine, ap, strict=True)
            },
            {
                seed: [
                    {"step": s, "AP": v * s / 600, "AP50": None, "AP75": None}
                    for s in range(100, 601, 100)
                ]
                for seed, v in zip(mine, ap, strict=True)
            },
        )
    return Comparison(
        found,
        {"sam3": "no weights"},
        tuple(seeds),
        about={"target": "fine", "detector": "faster-rcnn"},
        target_only_from=450,
    )


CASES = {
    "many": made(TEN, [0, 1, 2], 23, {"lat": 1}),
    "one seed": made(["target-only", "lat"], [0], 1),
    "one arm": made(["lat"], [0, 1], 7),
}


def within(value: float, limits: tuple[float, float]) -> bool:
    return min(limits) <= value <= max(limits)


def texts(figure: Any) -> list[tuple[str, Any, Any]]:
    """Every visible text: its words, itself, and its box in pixels."""
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    (axes,) = figure.axes
    # Ticks beyond the limits exist, but are not drawn.
    hidden = [t for t in axes.get_xticklabels() if not within(t.get_position()[0], axes.get_xlim())]
    hidden += [
        t for t in axes.get_yticklabels() if not within(t.get_position()[1], axes.get_ylim())
    ]
    found = []
    for text in figure.findobj(Text):
        inside = Text.get_window_extent(text, renderer)  # without an annotation's arrow
        if text not in hidden and text.get_visible() and text.get_text() and inside.width > 0:
            found.append((text.get_text(), text, inside))
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", ["arms", "classes", "curves"])
def test_texts_neither_overlap_nor_leave_the_figure(case: str, which: str) -> None:
    figure = plots.all_figures(CASES[case])[which]
    found = texts(figure)
    width, height = figure.canvas.get_width_height()
    for words, _, box in found:
        assert box.x0 > -1 and box.y0 > -1, words
        assert box.x1 < width + 1 and box.y1 < height + 1, words
    # Boxes of turned texts are larger than the texts: those are left out.
    level = [(words, box) for words, text, box in found if not 0 < text.get_rotation() < 90]
    for (one, a), (other, b) in itertools.combinations(level, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        # Text boxes have a margin above and below their letters.
        assert wide < 1 or high < 3, f"{one!r} lies on {other!r}"


def test_numbers_are_in_the_plots() -> None:
    arm = ArmResult({0: metrics(0.2, {"car": 0.3}), 1: metrics(0.22, {"car": 0.3})})
    other = ArmResult({0: metrics(0.25, {"car": 0.28}), 1: metrics(0.26, {"car": 0.29})})
    comparison = Comparison({"target-only": arm, "lat": other}, {}, (0, 1))
    assert list(plots.all_figures(comparison)) == ["arms", "classes"]  # no curves were measured
    words = [t[0] for t in texts(plots.arms_figure(comparison))]
    assert "21.0 ± 1.4" in words
    assert "25.5 ± 0.7   (+4.5)" in words
    words = [t[0] for t in texts(plots.classes_figure(comparison))]
    assert "−1.5" in words
    assert "30.0" in words
    assert plots.all_figures(Comparison({}, {"lat": "not finished"})) == {}


def test_a_class_without_test_boxes_is_a_dash() -> None:
    words = [t[0] for t in texts(plots.classes_figure(CASES["one seed"]))]
    assert words.count("–") == 2


def test_files_are_the_same_every_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for name, figure in plots.all_figures(CASES["one seed"]).items():
            save_figure(figure, tmp_path / folder / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert len(files) == 6
    for name in files:
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes(), name
        assert not re.search(rb"<dc:date>|tEXt", data)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 5, 9], [1, 5, 9]),
        ([5, 5], [4.5, 5.5]),
        ([5, 5.2, 5.4, 9], [4.2, 5.2, 6.2, 9]),
        ([9.9, 10], [9, 10]),
        ([0, 0, 0], [0, 1, 2]),
        ([8.2, 9.9, 10], [8, 9, 10]),
    ],
)
def test_labels_are_moved_apart(values: list[float], expected: list[float]) -> None:
    assert plots._apart(values, 1, 0, 10) == pytest.approx(expected)


def test_matplotlib_is_imported_late_and_without_pyplot() -> None:
    code = (
        "import sys; from relabel.studies.downstream import plots, results;"
        "assert 'matplotlib' not in sys.modules;"
        "m = {'AP': .1, 'AP50': .1, 'AP75': .1, 'per_class': {}};"
        "c = results.Comparison({'lat': results.ArmResult({0: m})});"
        "plots.all_figures(c); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
