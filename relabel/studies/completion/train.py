"""One training of the comparison, as trained and with refitted classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.partial.labels import PartialLabels
from relabel.partial.settings import CompletionSettings
from relabel.settings import Runtime
from relabel.studies.completion.arms import REFIT
from relabel.studies.completion.run import Scored


def train_and_score(
    labels: PartialLabels,
    test: PartialLabels | None,
    settings: CompletionSettings,
    folder: Path,
    cache: Path,
    runtime: Runtime,
) -> Mapping[str, Scored]:
    """See `relabel.studies.completion.run.Trainer`."""
    from relabel.partial.features import open_inputs
    from relabel.partial.predict import predict
    from relabel.partial.refit import refit
    from relabel.partial.train import needs_maps, train

    def opened(these: PartialLabels) -> Any:
        return open_inputs(these, settings, runtime, cache, maps=needs_maps(settings))

    inputs = opened(labels)
    tested = None if test is None else opened(test)
    train(labels, inputs, folder / "network", settings, runtime)
    refit(folder / "network", labels, inputs, folder / "refitted", runtime)
    unreadable = [
        these.location(row)
        for these, values in ((labels, inputs), (test, tested))
        if these is not None and values is not None
        for row in np.flatnonzero(~values.readable).tolist()
    ]
    return {
        variant: Scored(
            predict(folder / name, inputs, runtime, labels=labels).scores,
            None if tested is None else predict(folder / name, tested, runtime).scores,
            tuple(unreadable),
        )
        for variant, name in (("", "network"), (REFIT, "refitted"))
    }
