"""The whole demo: make the world, a backbone and a relabel.toml, align, score, show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from relabel.demo.backbone import BackboneSettings, train_backbone
from relabel.demo.build import SOURCES, TARGET, World, write_world
from relabel.demo.config import write_config
from relabel.demo.score import SourceOutcome, score, write_outcome
from relabel.workspace.progress import message

# Gets relabel.toml and the workspace folder, and does what `relabel align` does.
Align = Callable[[Path, Path], None]
ALIGN_FOLDER = "align"


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo left.

    Attributes:
        files: report, scores and pictures.
    """

    world: World
    outcomes: list[SourceOutcome]
    files: list[Path]


def prepare_demo(
    out: Path,
    *,
    images: int = 120,
    target_images: int | None = None,
    val_images: int = 40,
    seed: int = 0,
    effort: float = 1.0,
    quiet: bool = False,
) -> tuple[World, Path]:
    """Write the world, train the backbone, write relabel.toml; what is there is reused.

    Args:
        images, target_images, val_images: see `write_world`.
        effort: scales the length of every training.

    Returns:
        The world and the path of relabel.toml.
    """
    world = write_world(
        out,
        images=images,
        target_images=target_images,
        val_images=val_images,
        seed=seed,
        quiet=quiet,
    )
    config = write_config(out, seed=seed, effort=effort)
    from relabel.catalogue.catalogue import load_catalogue
    from relabel.workspace.fingerprint import file_fingerprint

    target = load_catalogue(config=config).get(TARGET).read("train")
    settings = BackboneSettings(seed=seed)
    settings = replace(settings, steps=max(4, round(settings.steps * effort)))
    fingerprint = file_fingerprint(world.manifest)
    train_backbone(out / "backbone", target, fingerprint, settings, quiet=quiet)
    return world, config


def run_demo(world: World, config: Path, align: Align, *, quiet: bool = False) -> DemoResult:
    """Run ``align`` on what `prepare_demo` wrote, score its result against the truth, and show it.

    Raises:
        DataError: align left no result.
    """
    command = f"relabel align --target {TARGET} --sources {','.join(SOURCES)}"
    message(f"Running {command}", quiet=quiet)
    align(config, world.root / ALIGN_FOLDER)
    message("Scoring against the known truth", quiet=quiet)
    outcomes = score(world, config, world.root / ALIGN_FOLDER)
    return DemoResult(world, outcomes, write_outcome(world, config, outcomes))
