"""Partial labels whose truth is known: planted in maps without pictures, or painted in colours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from relabel.datasets.partial.labels import PartialLabels, sparse_known
from relabel.partial.features import Features
from relabel.partial.settings import CompletionSettings
from relabel.settings import Runtime
from tests.builders.colours import COLOURS, SIDE, paint
from tests.builders.datasets import write_pixels
from tests.builders.sam3 import byte_alphabet

RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
CHANNELS, CELLS = 16, 3


def quick(method: str, **values: Any) -> CompletionSettings:
    """A training of a second."""
    defaults: dict[str, Any] = {
        "method": method,
        "backbone": "planted",
        "steps": 60,
        "batch_size": 16,
        "lr": 1e-2,
        "width": 16,
        "held_back": 0.0,
        "precision": "fp32",
    }
    return CompletionSettings(**defaults | values)


def labels_of(known: Any, **values: Any) -> PartialLabels:
    """Labels -1, 0, 1 [N, C] without pictures."""
    block = np.asarray(known, np.int8)
    names = tuple(f"class {c}" for c in range(block.shape[1]))
    files = [f"{i}.png" for i in range(len(block))]
    made = PartialLabels("made", None, files, names, sparse_known(block))
    return replace(made, **values)


def planted(
    images: int = 120, classes: int = 4, seed: int = 0, strength: float = 3.0
) -> tuple[PartialLabels, Features]:
    """All labels of made images and their maps: each class present adds its direction somewhere."""
    rng = np.random.default_rng(seed)
    present = rng.random((images, classes)) < 0.35
    directions = np.random.default_rng(99).normal(0, 2.0, (classes, CHANNELS))
    maps = rng.normal(0, 1, (images, CHANNELS, CELLS, CELLS))
    for image, c in zip(*np.nonzero(present), strict=True):
        y, x = rng.integers(0, CELLS, 2)
        maps[image, :, y, x] += strength * directions[c]
    features = Features(
        maps.astype(np.float16), np.arange(images), np.ones(images, bool), "planted"
    )
    return labels_of(np.where(present, 1, -1)), features


def with_known(labels: PartialLabels, known: np.ndarray) -> PartialLabels:
    """The same images with other labels, int8 [N, C]."""
    return replace(labels, known=csr_array(sparse_known(known.astype(np.int8))))


def painted(root: Path, images: int = 24, seed: int = 0) -> PartialLabels:
    """Pictures of one or two colours of three, and which those are."""
    rng = np.random.default_rng(seed)
    known = np.full((images, len(COLOURS)), -1, np.int8)
    for i in range(images):
        shown = rng.permutation(len(COLOURS))[: rng.integers(1, 3)].tolist()
        write_pixels(root / f"{i:03d}.png", paint(rng, *shown))
        known[i, shown] = 1
    names = [f"{i:03d}.png" for i in range(images)]
    return labels_of(known, name="colours", root=root, file_names=names, classes=tuple(COLOURS))


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """The mean over present entries of the share of present ones above them."""
    ranked = present[np.argsort(-scores, kind="stable")]
    hits = np.cumsum(ranked)[ranked]
    return float(np.mean(hits / (np.flatnonzero(ranked) + 1)))


def tiny_clip(folder: Path) -> Path:
    """A CLIP of a few thousand random weights and its tokenizer, whose tokens are letters."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = byte_alphabet()
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    end = vocab["<|endoftext|>"]
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **size,
            "vocab_size": len(vocab),
            "num_hidden_layers": 1,
            "max_position_embeddings": 40,
            "bos_token_id": vocab["<|startoftext|>"],
            "eos_token_id": end,
            "pad_token_id": end,
            "projection_dim": 16,
        },
        vision_config={
            **size,
            "num_hidden_layers": 2,
            "image_size": SIDE,
            "patch_size": 8,
            "projection_dim": 16,
        },
        projection_dim=16,
    )
    model = CLIPModel(config)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "norm" not in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(folder)
    return folder
