"""The table over tau, with counts worked out by hand."""

from __future__ import annotations

import pytest
import torch

from relabel.errors import ConfigError, DataError
from relabel.evaluation.tables import markdown
from relabel.multilabel.regions.calibrate import CalibrationRow, calibrate_tau, calibration_rows


def _object(cosine: float) -> torch.Tensor:
    """A 5 x 4 ground with an object of 2 x 2 patches at that cosine to it."""
    features = torch.zeros(5, 4, 2)
    features[..., 0] = 1
    features[1:3, 1:3] = torch.tensor([cosine, (1 - cosine**2) ** 0.5])
    return features


def test_rows() -> None:
    """At tau 0.3 only the first image's object is apart; at 0.7 the second's as well."""
    rows = calibrate_tau(iter([_object(0.1), _object(0.5), torch.ones(5, 4, 2)]), [0.7, 0.3], 2)
    assert [(row.tau, row.images, row.counts) for row in rows] == [
        (0.7, 3, (1, 2, 0)),
        (0.3, 3, (2, 1, 0)),
    ]
    shares = [(row.masks_per_image, row.coverage, row.without) for row in rows]
    assert shares[0] == pytest.approx((2 / 3, 0.4 / 3, 1 / 3))
    assert shares[1] == pytest.approx((1 / 3, 0.2 / 3, 2 / 3))


def test_table() -> None:
    rows = [
        CalibrationRow(0.7, 3, 2 / 3, 0.4 / 3, 1 / 3, (1, 2, 0)),
        CalibrationRow(0.25, 3, 0.0, 0.0, 1.0, (3, 0, 0)),
    ]
    assert markdown(calibration_rows(rows)) == (
        "| tau | images | masks per image | coverage % | without % | 0 masks | 1 mask | 2 masks |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|\n"
        "| 0.7 | 3 | 0.67 | 13.3 | 33.3 | 1 | 2 | 0 |\n"
        "| 0.25 | 3 | 0.00 | 0.0 | 100.0 | 3 | 0 | 0 |\n"
    )


def test_nothing_to_calibrate_on() -> None:
    with pytest.raises(DataError, match="no images"):
        calibrate_tau([], [0.3], 2)
    with pytest.raises(ConfigError, match="no tau"):
        calibrate_tau([torch.ones(2, 2, 2)], [], 2)
