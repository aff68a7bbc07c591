"""Prompts learned for a CLIP checkpoint: a pair of texts per class, matched with every place.

Shape legend: ``B`` images, ``C`` classes, ``D`` numbers of CLIP's common space, ``H, W`` cells,
``T`` tokens of a text, ``t`` channels of the text tower.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relabel.backbones.views import loading
from relabel.errors import ConfigError
from relabel.partial.embeddings import words_of
from relabel.partial.losses import asymmetric
from relabel.partial.methods.base import Method, Setup

CONTEXT = 16
"""Learned vectors in front of a class's name."""
SHARPNESS, SCALE = 20.0, 5.0
"""Factors of cosines before places are weighed, and of what is left of them."""
_REMEDY = "Give a local folder or hub id of a transformers CLIP checkpoint with its tokenizer."


class ClipPrompt(Method):
    """DualCoOp (Sun et al., NeurIPS 2022): texts that say a class is there, and that it is not.

    Both are learned vectors, shared by all classes, and the class's name. Each place of the image
    is compared with both; places count by the softmax of their likeness to the positive text, and
    the logit is the difference of the two sums. Factors, loss (ASL) and the number of vectors are
    those of the public code. What is trained are the vectors alone; the texts' features are kept
    with them, so that predicting takes no text tower.
    """

    standardised = False
    texts: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        classes = len(setup.classes)
        self.source = setup.settings.backbone
        self.names = [" ".join(words_of(name)) or name for name in setup.classes]
        self._tower: list[TextTower] = []
        """In a list, so that it is no part of the trained weights."""
        self.register_buffer("texts", torch.zeros(2, classes, setup.channels))
        self.register_buffer("weight", torch.ones(classes, 1))
        self.register_buffer("bias", torch.zeros(classes))
        self.width = setup.text_width
        self.context = nn.Parameter(torch.randn(2, CONTEXT, self.width) * 0.02)

    def forward(self, maps: Tensor, known: Tensor, step: int) -> dict[str, Tensor]:
        return {"asl": asymmetric(self._logits(maps, self._features()), known)}

    def logits(self, maps: Tensor) -> Tensor:
        return self.hidden(maps)[:, :, 0] * self.weight[:, 0] + self.bias

    def hidden(self, maps: Tensor) -> Tensor:
        """[B, C, 1]: the trained logit, whose factor and offset can be refitted."""
        return self._logits(maps, self.texts)[:, :, None]

    def last_layer(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias

    def finish(self) -> None:
        self.texts.copy_(self._features())

    def _logits(self, maps: Tensor, texts: Tensor) -> Tensor:
        cells = F.normalize(maps.flatten(2), dim=1)
        likeness = SHARPNESS * torch.einsum("bdp,kcd->bkcp", cells, F.normalize(texts, dim=2))
        weights = likeness[:, 1].softmax(dim=2)
        summed = SCALE * (likeness * weights[:, None]).sum(dim=3)
        return summed[:, 1] - summed[:, 0]

    def _features(self) -> Tensor:
        """Features of the negative and the positive texts [2, C, D], from the learned vectors."""
        if not self._tower:
            self._tower.append(TextTower(self.source, self.names))
        return self._tower[0](self.context)


class TextTower:
    """A frozen CLIP text tower that reads learned vectors in front of names.

    Raises:
        ConfigError: there is no such checkpoint, or a name is too long for it.
    """

    def __init__(self, source: str, names: list[str]) -> None:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection

        with loading("CLIP checkpoint", source, _REMEDY):
            tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            self.net: Any = CLIPTextModelWithProjection.from_pretrained(
                source, dtype=torch.float32, trust_remote_code=False
            )
            self.net.eval().requires_grad_(False)
            ids = tokenizer([f"{name}." for name in names], padding=True, return_tensors="pt")
        tokens: Tensor = ids["input_ids"]
        longest = int(self.net.config.max_position_embeddings)
        if tokens.shape[1] + CONTEXT > longest:
            name = max(names, key=len)
            raise ConfigError(
                f"the class name {name!r} has too many tokens: {longest - CONTEXT - 2} fit behind "
                f"{CONTEXT} learned vectors"
            )
        # The first token begins a text; behind it come the places of the learned vectors.
        filler = tokens[:, 1:2].expand(-1, CONTEXT)
        self.tokens = torch.cat([tokens[:, :1], filler, tokens[:, 1:]], dim=1)
        self.embedding = self.net.get_input_embeddings()
        self._context: Tensor | None = None
        self.embedding.register_forward_hook(self._insert)

    def __call__(self, context: Tensor) -> Tensor:
        """Vectors [k, n, t] to features of k texts per class [k, C, D]."""
        device = context.device
        self.net.to(device)
        found = []
        for vectors in context:
            self._context = vectors
            found.append(self.net(input_ids=self.tokens.to(device)).text_embeds)
        self._context = None
        return torch.stack(found)

    def _insert(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        assert self._context is not None
        vectors = self._context.to(output.dtype).expand(len(output), -1, -1)
        return torch.cat([output[:, :1], vectors, output[:, 1 + CONTEXT :]], dim=1)


def text_width(source: str) -> int:
    """Channels of a CLIP checkpoint's text tower.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    from transformers import AutoConfig

    with loading("CLIP checkpoint", source, _REMEDY):
        config: Any = AutoConfig.from_pretrained(source, trust_remote_code=False)
        text = getattr(config, "text_config", None)
        if text is None:
            raise ValueError(f"a {config.model_type} has no text tower")
        return int(text.hidden_size)
    raise AssertionError  # unreachable: the block above returns or raises
