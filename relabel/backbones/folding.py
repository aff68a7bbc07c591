"""Shortcuts through frozen convolutional networks that change no value."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

_PROBE = 128


class FoldedConv2d(nn.Conv2d):
    """A convolution that does the work of the frozen batch norm behind it.

    With ``g = gamma / sqrt(var + eps)``: norm(conv(x, w)) = conv(x, g w) + beta + g (b - mean).
    The parameters stay where they were, so that checkpoints know nothing of it.
    """

    norms: list[nn.BatchNorm2d]  # in a list, so that the norm is no submodule a second time

    def forward(self, input: Tensor) -> Tensor:
        norm = self.norms[0]
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None
        gain = torch.rsqrt(variance + norm.eps) * norm.weight
        offset = (
            norm.bias - mean * gain if self.bias is None else norm.bias + gain * (self.bias - mean)
        )
        return self._conv_forward(input, self.weight * gain[:, None, None, None], offset)


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose work the convolution before it does."""

    def forward(self, input: Tensor) -> Tensor:
        return input


def pad_in_convolutions(net: nn.Module) -> int:
    """Let convolutions of stride 1 pad by themselves where transformers pads for them.

    Its MobileNets pad as TensorFlow does, into a copy of every layer's input, also where nothing
    is added. At stride 1 TensorFlow's padding is the same on both sides, which a convolution does
    without a copy; at larger strides it is lopsided, and stays.

    Returns:
        The number of layers that were changed.
    """
    changed = 0
    layer: Any
    for layer in net.modules():
        conv, config = getattr(layer, "convolution", None), getattr(layer, "config", None)
        if not isinstance(conv, nn.Conv2d) or not getattr(config, "tf_padding", False):
            continue
        spans = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        if conv.stride == (1, 1) and conv.padding == (0, 0) and not any(s % 2 for s in spans):
            own: Any = copy.copy(config)
            own.tf_padding = False
            layer.config = own
            conv.padding = (spans[0] // 2, spans[1] // 2)
            changed += 1
    return changed


def fold_batch_norms(net: nn.Module) -> int:
    """Let convolutions apply the frozen batch norms that directly follow them.

    A batch norm in eval mode is a scale and a shift per channel, but reads and writes the whole
    map: a tenth of a training step of a MobileNetV2 on a CPU.

    Returns:
        The number of pairs. A norm counts as following a convolution if it gets the very tensor
        that one returned, and both are called once in a forward pass.
    """
    produced: dict[int, nn.Conv2d] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: Counter[nn.Module] = Counter()
    kept: list[Any] = []  # keeps every output alive, so that no id comes twice

    def after_conv(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        calls[module] += 1
        kept.append(output)
        produced[id(output)] = module  # type: ignore[assignment]

    def before_norm(module: nn.Module, inputs: Any) -> None:
        calls[module] += 1
        conv = produced.get(id(inputs[0]))
        if conv is not None:
            found.append((conv, module))  # type: ignore[arg-type]

    handles = []
    for module in net.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            handles.append(module.register_forward_hook(after_conv))
        elif type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(before_norm))
    with torch.no_grad():
        net(torch.zeros(1, 3, _PROBE, _PROBE))
    for handle in handles:
        handle.remove()
    pairs = [(c, n) for c, n in found if calls[c] == 1 and calls[n] == 1]
    for conv, norm in pairs:
        conv.__class__, norm.__class__ = FoldedConv2d, FoldedBatchNorm2d
        conv.norms = [norm]  # type: ignore[attr-defined]
    return len(pairs)
