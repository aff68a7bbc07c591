"""Files of a classifier's predictions, for `relabel evaluate multilabel`.

Shape legend: ``N`` images, ``C`` classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relabel.datasets.multilabels import greatest, tsv_writer
from relabel.workspace.atomic import atomic_path

if TYPE_CHECKING:
    from relabel.classifiers.data import LabelledImages
    from relabel.classifiers.model import ClassifierSpec

Scores = Iterator[tuple[np.ndarray, np.ndarray]]
_TSV_LEAST = 0.00005  # what four decimals show as 0


def write_predictions(
    out: Path,
    images: LabelledImages,
    spec: ClassifierSpec,
    scores: Scores,
    *,
    top: int = 0,
    min_score: float = 0.0,
) -> int:
    """Write the scores of `predict` as they come; returns the number of images.

    - ``.parquet``: columns ``file_name`` (string) and, of every class, ``scores`` (list of
      float32). With ``top`` or ``min_score`` instead of ``scores`` the columns ``ids`` (list of
      int32) and ``probs`` (list of float32), greatest first. The metadata has ``class_names`` and
      ``class_keys`` as JSON lists.
    - ``.tsv``: the released format, four decimals; probabilities that these show as 0 are left
      out. The column of the original label has the images' own, -1 where there is none.

    Args:
        top: classes kept per image; 0 keeps all.
        min_score: minimum probability that is kept.
    """
    if out.suffix == ".tsv":
        return _write_tsv(out, images, scores, top, max(min_score, _TSV_LEAST))
    return _write_parquet(out, images, spec, scores, top, min_score)


def _write_parquet(
    out: Path,
    images: LabelledImages,
    spec: ClassifierSpec,
    scores: Scores,
    top: int,
    min_score: float,
) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sparse = top > 0 or min_score > 0
    ids, values_of = pa.list_(pa.int32()), pa.list_(pa.float32())
    lists = {"ids": ids, "probs": values_of} if sparse else {"scores": values_of}
    schema = pa.schema(
        {"file_name": pa.string(), **lists},
        metadata={
            "class_names": json.dumps(spec.classes, ensure_ascii=False),
            "class_keys": json.dumps(spec.keys, ensure_ascii=False),
        },
    )
    done = 0
    with atomic_path(out) as temp, pq.ParquetWriter(temp, schema, compression="zstd") as writer:
        for rows, values in scores:
            names = pa.array([images.file_names[i] for i in rows.tolist()], pa.string())
            arrays: list[Any] = [names]
            if sparse:
                kept = greatest(values, top, min_score)
                offsets = pa.array(kept.indptr, pa.int32())
                arrays += [
                    pa.ListArray.from_arrays(offsets, pa.array(kept.indices, pa.int32())),
                    pa.ListArray.from_arrays(offsets, pa.array(kept.data, pa.float32())),
                ]
            else:
                offsets = pa.array(np.arange(len(rows) + 1) * values.shape[1], pa.int32())
                flat = pa.array(values.astype(np.float32).reshape(-1), pa.float32())
                arrays.append(pa.ListArray.from_arrays(offsets, flat))
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            done += len(rows)
    return done


def _write_tsv(
    out: Path, images: LabelledImages, scores: Scores, top: int, min_score: float
) -> int:
    done = 0
    with tsv_writer(out) as file:
        for rows, values in scores:
            kept = greatest(values.clip(0, 1), top, min_score)
            file.write([images.file_names[i] for i in rows.tolist()], images.gt[rows], kept)
            done += len(rows)
    return done
