"""How long the whole demo will take: all of it in small, timed."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from relabel.demo.backbone import BackboneSettings, trial
from relabel.demo.build import SOURCES, TARGET, write_world
from relabel.demo.config import write_config
from relabel.settings import Runtime

_IMAGES = 4
_SCORING = 0.03  # seconds per source image: scores, report and pictures


def expected_parts(
    *, images: int, target_images: int, val_images: int, effort: float, device: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by what they are spent on, and those of align's stages by name.

    ``device`` is align's, the other arguments the demo's.

    A world of a few pictures is drawn in a temporary folder, a backbone and align's networks do a
    few steps on it, and each is scaled to the length that it will have.
    """
    from relabel.align.estimate import expected_seconds, parts
    from relabel.align.plan import prepare
    from relabel.align.settings import AlignSettings, PipelineSettings
    from relabel.catalogue.catalogue import load_catalogue
    from relabel.detectors.settings import SpecialistSettings
    from relabel.lat.settings import LatSettings
    from relabel.settings import settings_from

    total = len(SOURCES) * images + target_images + val_images
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        started = time.perf_counter()
        world = write_world(root, images=_IMAGES, val_images=1, quiet=True)
        drawn = (time.perf_counter() - started) / ((len(SOURCES) + 1) * _IMAGES + 1)
        config = write_config(world.root, seed=0, effort=effort)
        catalogue = load_catalogue(config=config)
        steps = BackboneSettings().steps * effort
        step = trial(root / "backbone", catalogue.get(TARGET).read("train"), BackboneSettings())
        tables = catalogue.tables
        specialist = settings_from(SpecialistSettings, tables["specialist"], where="specialist")
        settings = PipelineSettings(
            specialist=replace(specialist, backbone=str(root / "backbone")),
            lat=settings_from(LatSettings, tables["lat"], where="lat"),
            align=settings_from(AlignSettings, tables["align"], where="align"),
        )
        runtime = Runtime(device=device, quiet=True)
        plan = prepare(catalogue, TARGET, SOURCES, root / "align", settings, runtime)
        counts = {TARGET: target_images, **dict.fromkeys(SOURCES, images)}
        stages = expected_seconds(plan, counts)
        found = parts(plan, stages)
    scoring = len(SOURCES) * images * _SCORING
    report = found.pop("report", 0.0) + scoring
    found = {"world": total * drawn, "backbone": steps * step, **found, "report": report}
    return found, stages
