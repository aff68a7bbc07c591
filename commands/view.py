"""``relabel view``: a result in the FiftyOne App."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from relabel.cli import debug_option

from ._results import kept


@click.command()
@click.argument("result", metavar="RESULT", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the FiftyOne dataset. [relabel-FOLDER]")
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the images, for a COCO file that does not find them.",
)
@click.option(
    "--truth",
    multiple=True,
    metavar="SOURCE=FILE",
    help="A source's images as they should be labelled, a COCO file; repeatable.",
)
@click.option(
    "--suspects",
    metavar="CHECK",
    type=click.Path(path_type=Path, exists=True),
    help="Suspect labels of the run: the folder that `relabel check RUN` wrote. [runs/check/NAME]",
)
@click.option(
    "--remote", is_flag=True, help="For a far machine: open no browser, print the ssh command."
)
@click.option("--port", type=click.IntRange(1, 65535), default=5151, show_default=True)
@click.option(
    "--address",
    default="localhost",
    show_default=True,
    help="Address to serve at. 0.0.0.0 lets anyone in the network in; there is no password.",
)
@click.option("--no-browser", is_flag=True, help="Open no browser.")
@click.option(
    "--load-only", is_flag=True, help="Load into FiftyOne's database and stop there, without App."
)
@debug_option
def cli(
    result: Path,
    name: str | None,
    images: Path | None,
    truth: tuple[str, ...],
    suspects: Path | None,
    remote: bool,
    port: int,
    address: str,
    no_browser: bool,
    load_only: bool,
) -> None:
    """Show a result in the FiftyOne App.

    RESULT is the folder that `relabel align` wrote, the folder of one of its sources, or a COCO
    file. It becomes a persistent FiftyOne dataset with the source's own, pseudo and transferred
    labels as separate fields; showing it again loads only what has changed. The command ends when
    the App is closed, or with Ctrl-C.
    """
    from relabel import viewer as fiftyone_app
    from relabel.review.suspects import find_check

    sources = fiftyone_app.find_sources(result)
    given = {}
    for text in truth:
        source, equals, file = text.partition("=")
        if not equals or not source or not file:
            raise click.BadParameter(f"{text!r} is not SOURCE=FILE", param_hint="--truth")
        given[source] = Path(file)
    check = find_check(result, suspects)
    if not load_only:
        fiftyone_app.check_port(address, port)
    # FiftyOne talks on stdout, which is for data here.
    with contextlib.redirect_stdout(sys.stderr):
        fo = fiftyone_app.start()
        name = name or fiftyone_app.default_name(result)
        dataset = fiftyone_app.load(fo, sources, name, images=images, truth=given)
        if check is not None:
            fiftyone_app.load_suspects(fo, dataset, sources, check)
        if not load_only:
            fiftyone_app.show(
                fo,
                dataset,
                port=port,
                address=address,
                browser=not (remote or no_browser),
                remote=remote,
            )
    if load_only:
        kept(dataset.name)
