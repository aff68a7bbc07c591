"""The root of the command line: subcommands imported when they run, errors as one line.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

from relabel import process  # isort: split

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from relabel import __version__
from relabel.errors import RelabelError, did_you_mean, shown
from relabel.workspace import ranks

# The help line of each subcommand stands here so that `relabel --help` imports none of them.
COMMANDS = {
    "align": "Relabel source datasets in a target's label space: the whole job.",
    "train-specialist": "Train a detector on one dataset in its own label space.",
    "train-classifier": "Train an image classifier on soft multi-labels.",
    "classify": "Write a classifier's scores on images.",
    "imagenet-multilabel": "Give every image the labels of all its objects.",
    "complete": "Fill in the unknown labels of a partially labelled image set.",
    "cross-label": "Pseudo-label a dataset with another dataset's specialist.",
    "check": "Find suspect labels of a dataset by out-of-fold predictions.",
    "evaluate": "Score detections, pseudo-labels, or the quality of relabelled boxes.",
    "datasets": "List, describe, validate and convert datasets.",
    "settings": "List every setting with its default, range and meaning.",
    "demo": "Make a small world of street scenes and run align on it.",
    "view": "Show a result in the FiftyOne App.",
    "review": "Keep what was decided in the FiftyOne App.",
    "doctor": "Report versions, devices and what is missing.",
}


@dataclass
class State:
    """What the options of the root command hand to the subcommands, as ``ctx.obj``.

    A command that calls another hands it, too, what it knows of its stages: ``expected``, seconds
    by stage.
    """

    debug: bool = False
    config: Path | None = None
    expected: dict[str, float] = field(default_factory=dict)


class _Interrupted(BaseException):
    """KeyboardInterrupt under another name: click would print an empty line for it."""


@contextmanager
def _renamed() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise _Interrupted from error


class LazyGroup(click.Group):
    """A group whose subcommands are imported only when they run."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _renamed():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _renamed():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"relabel.commands.{cmd_name.replace('-', '_')}")
        return module.cli

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(
                f"there is no command {name!r}. {did_you_mean(name, COMMANDS)}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(n, help=h) for n, h in COMMANDS.items() if n.startswith(incomplete)]


def set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Option callback: remember --debug wherever on the command line it stands."""
    if value:
        ctx.find_root().ensure_object(State).debug = True


def set_config(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Option callback: remember -C/--config."""
    if value is not None:
        ctx.find_root().ensure_object(State).config = Path(value)


DEBUG: dict[str, Any] = {
    "is_flag": True,
    "expose_value": False,
    "callback": set_debug,
    "help": "Show the traceback of an error.",
}
CONFIG: dict[str, Any] = {
    "type": click.Path(dir_okay=False),
    "expose_value": False,
    "callback": set_config,
    "help": "The relabel.toml to use. [found upward from here]",
}
debug_option = click.option("--debug", **DEBUG)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every command has its own --help. Datasets are named in relabel.toml.",
)
@click.version_option(__version__, "--version", prog_name="relabel")
@debug_option
@click.option("-C", "--config", **CONFIG)
def cli() -> None:
    """Rewrite the annotations of detection datasets into another dataset's label space.

    Start with `relabel demo`, or name your datasets in relabel.toml and run
    `relabel align --target NAME --sources NAME,NAME`.
    """


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    process.remember_arguments(args)
    state = State(debug="--debug" in (sys.argv[1:] if args is None else args))
    if ranks.enter() > 0:
        error = ranks.serve()
        sys.exit(0 if error is None else _report(error, state.debug))
    try:
        with process.in_charge():
            status = _finish(_run(args, state))
            if status == 0:
                ranks.release()
    except KeyboardInterrupt:  # a second one, while the first was told
        status = process.tell_interrupted()
    process.leave(status)


def _run(args: Sequence[str] | None, state: State) -> int:
    try:
        ranks.join()
        result = cli.main(args, prog_name="relabel", standalone_mode=False, obj=state)
        return result if isinstance(result, int) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, _Interrupted, click.Abort):
        return process.tell_interrupted()
    except Exception as error:
        if process.interrupted() and not state.debug:
            # Libraries whose import is interrupted say that they are broken.
            return process.tell_interrupted()
        if state.debug:
            import traceback

            traceback.print_exc()
        return _report(error, state.debug)


def _finish(status: int) -> int:
    """The status, once all output is written: what could not be is never a success."""
    lost = process.take_output_failure()
    if lost is None or status:
        return status
    return _fail(f"error: standard output cannot be written: {lost}")


def _report(error: Exception, debug: bool) -> int:
    """One line on stderr for any error; returns the exit status."""
    from relabel.workspace.atomic import disk_full_error, is_disk_full

    if not isinstance(error, RelabelError) and is_disk_full(error):
        error = disk_full_error(getattr(error, "filename", None))
    if isinstance(error, RelabelError):
        return _fail(f"error: {error}", error.exit_code)
    # By name, since torch must not be imported to ask for its class.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return _fail("error: out of memory. Use a smaller batch size, or --workers 0.")
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return _fail("error: a path begins with ~ and the name of no user. Check the path.")
    if isinstance(error, UnicodeEncodeError):
        # Of a path, since texts of files are read as UTF-8.
        text = f"error: {str(error.object)[:200]!r} holds bytes that are not UTF-8 text"
        return _fail(f"{text}, which cannot be written into a file. Rename the file or folder.")
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename else ""
        return _fail(f"error: {file}{error.strerror}")
    text = " ".join(str(error).split())
    hint = "" if debug else " (--debug shows where)"
    return _fail(f"error: unexpected {type(error).__name__}: {text}{hint}")


def _fail(text: str, status: int = 1) -> int:
    print(f"relabel: {shown(text)}", file=sys.stderr, flush=True)
    return status
