"""Names of classes, files and datasets are text in every report, whatever they hold."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from relabel.errors import shown
from relabel.reports.charts import save_figure
from relabel.reports.style import isolated, shortened
from relabel.studies.downstream.plots import all_figures
from relabel.studies.downstream.report import markdown_report
from tests.builders.pages import ParsedPage
from tests.builders.reports import HOSTILE, MADE, all_reports, comparison_of

REPORTS = (
    "align",
    "imagenet-multilabel",
    "complete",
    "check",
    "evaluate pseudo-labels",
    "evaluate downstream",
)
# Of matplotlib's files.
SVG_TAGS = {"svg", "metadata", "RDF", "Work", "type", "format", "creator", "Agent", "title"}
SVG_TAGS |= {"defs", "style", "g", "path", "use", "clipPath", "rect"}
_ISOLATES = str.maketrans("", "", "\u2068\u2069")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = all_reports(tmp_path_factory.mktemp("reports"), HOSTILE)
    return {name: path.read_text(encoding="utf-8") for name, path in found.items()}


@pytest.mark.parametrize("report", REPORTS)
def test_names_are_text_and_nothing_else(pages: dict[str, str], report: str) -> None:
    page = ParsedPage(pages[report])
    page.check()
    # Elements that no report of ours has, but some of the names.
    assert "u" not in {tag for tag, _ in page.elements}
    assert all("hacked" not in a for tag, a in page.elements if tag == "svg")
    assert not [a for _, a in page.elements if a.get("id") == "x"]
    texts = set(page.texts)
    for name in HOSTILE:
        assert any(shown(name) in text for text in texts), (report, name)
    # What would turn the text around or forge a line is written out.
    assert "\u202e" not in pages[report] and "\x1b" not in pages[report]
    assert MADE.command in texts


@pytest.mark.parametrize("report", REPORTS)
def test_names_are_whole_in_attributes(pages: dict[str, str], report: str) -> None:
    page = ParsedPage(pages[report])
    said = [v.translate(_ISOLATES) for n in ("alt", "aria-label") for v in page.attributes(n)]
    if report != "evaluate downstream":
        for name in HOSTILE:
            assert any(shown(name) in text for text in said), (report, name)


def test_names_from_right_to_left_turn_nothing_around() -> None:
    assert isolated("שלום עולם: 12 (3%)") == "\u2068שלום עולם\u2069: 12 (3%)"
    assert isolated("car: 12") == "car: 12"
    assert isolated("a שלום <b> عربي") == "a \u2068שלום\u2069 &lt;b&gt; \u2068عربي\u2069"


def test_shortened_counts_columns() -> None:
    assert shortened("car", 3) == "car"
    assert shortened("lorry", 3) == "lo…"
    assert shortened("車車車車", 5) == "車車…"  # wide letters take two
    assert shortened("e\u0301e\u0301e\u0301", 3) == "e\u0301e\u0301e\u0301"
    assert shortened("a\nb", 9) == "a\\nb"


def test_charts_in_files_show_names(tmp_path: Path) -> None:
    # Titles and labels that begin no formula, and a file that is one picture and nothing else.
    for name, figure in all_figures(comparison_of(HOSTILE)).items():
        for file in save_figure(figure, tmp_path / name):
            assert file.stat().st_size > 1000
        tags = {node.tag.rpartition("}")[2] for node in ET.parse(tmp_path / f"{name}.svg").iter()}
        assert tags <= SVG_TAGS


def test_markdown_shows_names() -> None:
    from markdown_it import MarkdownIt

    text = markdown_report(comparison_of(HOSTILE), date="2026-01-02")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    page = ParsedPage(f"<p>{html}</p>")
    tags = {tag for tag, _ in page.elements}
    assert tags <= {"p", "h1", "h2", "ul", "li", "table", "thead", "tbody", "tr", "th", "td",
                    "img", "pre", "code", "strong"}  # fmt: skip
    cells = {cell for row in page.rows for cell in row}
    for name in HOSTILE:
        assert shown(name).strip() in cells, name
