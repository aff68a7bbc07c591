"""Embeddings of class names: random ones to be learned, word vectors, or a text encoder's.

Shape legend: ``C`` classes, ``e`` numbers of an embedding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relabel.backbones.views import loading
from relabel.errors import DataError
from relabel.files.opening import foreign, open_file
from relabel.partial.settings import LEARNED
from relabel.workspace.fingerprint import file_fingerprint, source_identity

_LEARNED_WIDTH = 300  # of GloVe's vectors, which the published networks take
_MOST_LINE = 1 << 20
_SHORTEST = 2
_FORMAT = "Give a text file of a word and its numbers per line, as GloVe and word2vec have it."


def class_embeddings(source: str, classes: Sequence[str]) -> Tensor:
    """float32 [C, e], one embedding per class.

    Args:
        source: ``learned`` draws them from torch's global generator; a file holds word vectors
            (see `word_vectors`); anything else is a transformers text encoder, by hub id or folder.

    Raises:
        DataError: a damaged file, or a class none of whose words is in it.
        ConfigError: there is no such text encoder.
    """
    if source == LEARNED:
        return torch.randn(len(classes), _LEARNED_WIDTH)
    if Path(source).is_file():
        return word_vectors(source, classes)
    return text_embeddings(source, classes)


def embeddings_identity(source: str) -> str:
    """What stands for the embeddings in fingerprints."""
    if source != LEARNED and Path(source).is_file():
        return file_fingerprint(source)
    return source_identity(source)


def words_of(name: str) -> list[str]:
    """The words of a class's name in lower case: ``TrafficLight-2`` is traffic, light, 2."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[\W_]+", spaced.lower()) if word]


def word_vectors(path: str | Path, classes: Sequence[str]) -> Tensor:
    """float32 [C, e]: the vector of a class's whole name, else the mean of its words' vectors.

    The file is GloVe's or word2vec's text format: a word and its numbers per line, with or without
    a first line of two counts. A name's words are joined by ``_`` or ``-`` in such files. A word
    that is not there is cut in two that are, as VOC's ``pottedplant`` and ``tvmonitor`` must be;
    of several cuts that whose rarer part comes first in the file, which is sorted by frequency.
    The file is read line by line, and only the vectors that are needed are kept.

    Raises:
        DataError: a line that is no word with numbers or shorter than the first, or a class
            without a single word in the file.
    """
    whole = {name: {j.join(words_of(name)) for j in ("_", "-", "")} for name in classes}
    cuts = {w: _cuts(w) for name in classes for w in words_of(name)}
    wanted = {*cuts, *(w for names in whole.values() for w in names)}
    wanted |= {part for pairs in cuts.values() for pair in pairs for part in pair}
    found: dict[str, np.ndarray] = {}  # in the order of the file
    width = 0
    with open_file(path) as stream, foreign(path, "a file of word vectors", remedy=_FORMAT):
        for number, line in enumerate(iter(lambda: stream.readline(_MOST_LINE), b""), start=1):
            fields = line.rstrip().split(b" ")
            if number == 1 and len(fields) == 2 and fields[0].isdigit():
                continue
            width = width or len(fields) - 1
            if len(fields) <= width or width == 0:
                raise DataError(
                    f"has {len(fields) - 1} numbers where the first has {width}",
                    file=path,
                    record=f"line {number}",
                    remedy=_FORMAT,
                )
            word = b" ".join(fields[:-width])  # a few of GloVe's words hold spaces
            text = word.decode("utf-8", "replace").lower()
            if text in wanted and text not in found:
                values = np.array(fields[-width:], dtype=np.float32)
                if not np.isfinite(values).all():
                    raise ValueError(f"line {number} has numbers that are not finite")
                found[text] = values
    rank = {word: number for number, word in enumerate(found)}

    def vectors(word: str) -> list[np.ndarray]:
        if word in found:
            return [found[word]]
        pairs = [pair for pair in cuts[word] if pair[0] in found and pair[1] in found]
        best = min(pairs, key=lambda pair: max(rank[part] for part in pair), default=())
        return [found[part] for part in best]

    rows = []
    for name in classes:
        exact = [found[word] for word in sorted(whole[name]) if word in found]
        parts = exact[:1] or [v for word in words_of(name) for v in vectors(word)]
        if not parts:
            raise DataError(
                f"no word of the class {name!r} is in it",
                file=path,
                remedy="Use vectors of the classes' language, or --set complete.embeddings=learned",
            )
        rows.append(np.mean(parts, axis=0))
    return torch.from_numpy(np.stack(rows))


def _cuts(word: str) -> list[tuple[str, str]]:
    """Every way to cut a word in two of at least `_SHORTEST` letters each."""
    return [(word[:k], word[k:]) for k in range(_SHORTEST, len(word) - _SHORTEST + 1)]


def text_embeddings(source: str, classes: Sequence[str]) -> Tensor:
    """float32 [C, e] of a transformers text encoder: CLIP's text features, else the mean of the
    last states over a name's tokens.

    Raises:
        ConfigError: it is not available, or has no tokenizer.
    """
    from transformers import AutoModel, AutoTokenizer

    texts = [" ".join(words_of(name)) or name for name in classes]
    remedy = "Give an existing file of word vectors, a local folder or a hub id of a text encoder."
    with loading("text encoder", source, remedy):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model: Any = AutoModel.from_pretrained(
            source, dtype=torch.float32, trust_remote_code=False
        ).eval()
        with torch.inference_mode():
            tokens = tokenizer(texts, padding=True, return_tensors="pt")
            if hasattr(model, "get_text_features"):
                found = model.get_text_features(**tokens)
                found = getattr(found, "pooler_output", found)
            else:
                states = model(**tokens).last_hidden_state
                mask = tokens["attention_mask"][:, :, None].to(states.dtype)
                found = (states * mask).sum(1) / mask.sum(1)
    return found.float().clone()
