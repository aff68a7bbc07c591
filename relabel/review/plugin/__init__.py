"""The review in FiftyOne's App: operators, and a panel with their buttons and the progress.

FiftyOne imports this folder as a plugin, see `relabel.viewer`; nothing else does. What the
operators do is in `relabel.review.edits`.
"""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from relabel.datasets.decisions import ACCEPT, REJECT, RELABEL, RESTORE, Verdict
from relabel.errors import RelabelError
from relabel.review import edits

_WORDS: dict[str, tuple[str, str]] = {
    ACCEPT: ("Accept", "accepted"),
    REJECT: ("Reject", "rejected"),
    RELABEL: ("Relabel", "relabelled"),
    RESTORE: ("Restore", "restored"),
}
_SHOWN_STEPS = 5


def _samples(ctx: Any) -> list[str]:
    """The samples that are meant where no labels are selected; none for the whole view."""
    return [ctx.current_sample] if ctx.current_sample else list(ctx.selected or [])


def _scope(ctx: Any, verdict: Verdict) -> tuple[int, str]:
    """How many labels a decision would be about, and in words."""
    fields = edits.applies_to(verdict)
    if ctx.selected_labels:
        n = sum(one["field"] in fields for one in ctx.selected_labels)
        return n, f"{_boxes(n)} selected"
    samples = _samples(ctx)
    view = ctx.view.select(samples) if samples else ctx.view
    n = sum(_count(view, field) for field in fields if view.has_sample_field(field))
    where = "this image" if ctx.current_sample else "selected images" if samples else "the view"
    return n, f"{'all ' * (n > 1)}{_boxes(n)} of {where}"


def _boxes(n: int) -> str:
    return f"{n:,} box{'es' * (n != 1)}"


def _count(view: Any, field: str) -> int:
    """Labels of a field, ignore regions left out."""
    regions = view.count_values(f"{field}.detections.ignore").get(True, 0)
    return view.count(f"{field}.detections") - regions


def _decide(ctx: Any, verdict: Verdict, label: str | None = None) -> None:
    """Do it, and say in the App what was done, or why not."""
    selection = edits.selected(ctx.view, ctx.selected_labels or [], _samples(ctx))
    try:
        done = edits.decide(ctx.dataset, selection, verdict, label=label or None)
    except RelabelError as error:
        ctx.ops.notify(f"{error.message}. {error.remedy or ''}", variant="error")
        return
    text = f"{_boxes(done.count)} {_WORDS[verdict][1]}"
    if done.passed_over:
        text += f"; {done.passed_over:,} left as they are"
    _told(ctx, text, done.count)


def _undo(ctx: Any) -> None:
    done = edits.undo(ctx.dataset)
    if not done.number:
        _told(ctx, "Nothing left to undo", 0)
        return
    _told(ctx, f"Undone: {_WORDS[done.verdict][1]}, {done.count:,}", done.count)


def _told(ctx: Any, text: str, changed: int) -> None:
    if changed:
        ctx.ops.clear_selected_labels()
        ctx.ops.reload_dataset()
    ctx.ops.notify(text, variant="success" if changed else "info")


class _DecisionOperator(foo.Operator):
    """A decision about the selected labels, else about all in the view."""

    verdict: Verdict

    @property
    def config(self) -> Any:
        return foo.OperatorConfig(
            name=f"{self.verdict}_labels",
            label=f"relabel: {_WORDS[self.verdict][0].lower()} labels",
            dynamic=True,
        )

    def resolve_input(self, ctx: Any) -> Any:
        inputs = types.Object()
        n, scope = _scope(ctx, self.verdict)
        word = _WORDS[self.verdict][0]
        if not edits.is_reviewable(ctx.dataset):
            said = "This dataset holds no labels that relabel transferred."
            inputs.view("none", types.Error(label=said), invalid=True)
        elif not n:
            inputs.view("none", types.Warning(label=f"{word}: none of these boxes"), invalid=True)
        else:
            inputs.view("scope", types.Notice(label=f"{word} {scope}"))
            if self.verdict in (RELABEL, RESTORE):
                inputs.enum(
                    "label",
                    edits.classes_of(ctx.dataset),
                    label="Class",
                    required=self.verdict == RELABEL,
                    description=None if self.verdict == RELABEL else "Default: the likeliest",
                    view=types.AutocompleteView(),
                )
        return types.Property(inputs, view=types.View(label=f"{word} labels"))

    def execute(self, ctx: Any) -> None:
        _decide(ctx, self.verdict, ctx.params.get("label"))


class AcceptLabels(_DecisionOperator):
    """They are right as they are."""

    verdict = ACCEPT


class RejectLabels(_DecisionOperator):
    """There is no such object, by the target's convention."""

    verdict = REJECT


class RelabelLabels(_DecisionOperator):
    """They are of another class."""

    verdict = RELABEL


class RestoreLabels(_DecisionOperator):
    """Removed annotations and rejected labels come back."""

    verdict = RESTORE


class UndoReview(foo.Operator):
    """Take back the last step."""

    @property
    def config(self) -> Any:
        return foo.OperatorConfig(name="undo_review", label="relabel: undo the last decision")

    def execute(self, ctx: Any) -> None:
        if edits.is_reviewable(ctx.dataset):
            _undo(ctx)


class ReviewPanel(foo.Panel):
    """Buttons for every decision, the progress, and the steps that can be undone."""

    @property
    def config(self) -> Any:
        return foo.PanelConfig(
            name="relabel_review",
            label="Review",
            icon="rule",
            surfaces="grid modal",
            help_markdown="Decide about the selected boxes, else about all boxes in the view. "
            "`relabel review export RUN` writes the decisions.",
        )

    def on_load(self, ctx: Any) -> None:
        self._refresh(ctx)

    def on_change_selected_labels(self, ctx: Any) -> None:
        self._refresh(ctx)

    def on_change_selected(self, ctx: Any) -> None:
        self._refresh(ctx)

    def on_change_view(self, ctx: Any) -> None:
        self._refresh(ctx)

    def on_change_current_sample(self, ctx: Any) -> None:
        self._refresh(ctx)

    def on_change_dataset(self, ctx: Any) -> None:
        self._refresh(ctx)

    def accept(self, ctx: Any) -> None:
        _decide(ctx, ACCEPT)
        self._refresh(ctx)

    def reject(self, ctx: Any) -> None:
        _decide(ctx, REJECT)
        self._refresh(ctx)

    def relabel(self, ctx: Any) -> None:
        _decide(ctx, RELABEL, ctx.panel.get_state("label"))
        self._refresh(ctx)

    def restore(self, ctx: Any) -> None:
        _decide(ctx, RESTORE, ctx.panel.get_state("label"))
        self._refresh(ctx)

    def undo(self, ctx: Any) -> None:
        _undo(ctx)
        self._refresh(ctx)

    def choose(self, ctx: Any) -> None:
        ctx.panel.set_state("label", ctx.params.get("value"))

    def _refresh(self, ctx: Any) -> None:
        """What the panel tells is counted when something changed, not at every rendering."""
        if not edits.is_reviewable(ctx.dataset):
            ctx.panel.set_state("told", None)
            return
        told = {
            "scopes": {
                verdict: _scope(ctx, verdict) for verdict in (ACCEPT, REJECT, RELABEL, RESTORE)
            },
            "progress": edits.progress(ctx.dataset),
            "steps": edits.last_steps(ctx.dataset)[:_SHOWN_STEPS],
            "unexported": edits.unexported(ctx.dataset),
        }
        ctx.panel.set_state("told", told)

    def render(self, ctx: Any) -> Any:
        panel = types.Object()
        told = ctx.panel.get_state("told")
        if not told:
            panel.md("This dataset holds no labels that relabel transferred.", name="none")
            return types.Property(
                panel, view=types.GridView(orientation="vertical", padding=2, gap=1)
            )
        panel.md(_progress_text(told["progress"], told["unexported"]), name="progress_text")
        panel.enum(
            "label",
            edits.classes_of(ctx.dataset),
            label="Class to relabel or restore to",
            view=types.DropdownView(),
            on_change=self.choose,
        )
        calls = {ACCEPT: self.accept, REJECT: self.reject}
        calls |= {RELABEL: self.relabel, RESTORE: self.restore}
        for verdict, call in calls.items():
            n, scope = told["scopes"][verdict]
            panel.btn(
                f"do_{verdict}",
                label=f"{_WORDS[verdict][0]} {scope}",
                on_click=call,
                disabled=not n or (verdict == RELABEL and not ctx.panel.get_state("label")),
                variant="contained",
            )
        panel.btn(
            "do_undo",
            label="Undo the last step",
            on_click=self.undo,
            disabled=not told["steps"],
            variant="outlined",
        )
        lines = [
            f"- {_WORDS[one['what']][1]}: {one['count']:,} ({one['at'][:16].replace('T', ' ')})"
            for one in told["steps"]
        ]
        if lines:
            panel.md("\n".join(["**Last steps**", "", *lines]), name="steps")
        return types.Property(panel, view=types.GridView(orientation="vertical", padding=2, gap=1))


def _progress_text(progress: dict[str, int], unexported: int) -> str:
    decided, labels = progress["decided"], progress["labels"]
    share = f"{100 * decided / labels:.1f} %" if labels else "no labels"
    of = ", ".join(
        f"{n:,} {verdict}" for verdict, n in progress.items()
        if verdict not in ("decided", "labels", "images")
    )  # fmt: skip
    text = f"**{decided:,} of {labels:,} labels decided** ({share})"
    if of:
        text += f": {of}"
    if unexported:
        text += "  \nNot exported yet: `relabel review export RUN`"
    return text


def register(plugin: Any) -> None:
    """FiftyOne calls this when it loads the plugin."""
    for operator in (AcceptLabels, RejectLabels, RelabelLabels, RestoreLabels, UndoReview):
        plugin.register(operator)
    plugin.register(ReviewPanel)
