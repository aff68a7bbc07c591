"""Region pooling by weighted sums of places against torchvision's."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from relabel.detectors.pooling import SeparableRoIAlign, pool


def boxes_of(count: int, side: float, seed: int) -> Tensor:
    """Boxes of all sizes, some beyond the borders, some thinner than a cell."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side * 1.2 - side * 0.1
    extent = torch.rand(count, 2, generator=generator) ** 3 * side
    return torch.cat([corner, corner + extent], dim=1)


def test_one_level_is_pooled_as_torchvision_does() -> None:
    x = torch.rand(2, 5, 9, 13, generator=torch.Generator().manual_seed(0))
    boxes = torch.cat([boxes_of(60, 12, 1), torch.tensor([[-3.0, -3, -2, -2], [0, 0, 13, 9]])])
    image = torch.arange(len(boxes)) % 2
    expected = roi_align(x, torch.cat([image[:, None], boxes], dim=1), 7, 1.0, 2)
    torch.testing.assert_close(pool(x, image, boxes, 7, 2), expected, rtol=1e-5, atol=1e-5)


def test_a_pyramid_has_torchvisions_values_and_gradients() -> None:
    shapes = [(512, 640), (480, 400)]
    large = torch.tensor([[20.0, 10, 620, 500]])
    boxes = [torch.cat([large, boxes_of(40, 640, 2)]), boxes_of(25, 640, 3)]
    found = []
    for kind in (SeparableRoIAlign, MultiScaleRoIAlign):
        generator = torch.Generator().manual_seed(4)
        maps = OrderedDict(
            (str(s), torch.rand(2, 3, 512 // s, 640 // s, generator=generator, requires_grad=True))
            for s in (8, 16, 32)
        )
        pooler = kind(list(maps), output_size=7, sampling_ratio=2).train()
        out = pooler(maps, boxes, shapes)
        (out * torch.linspace(0, 1, out.numel()).view(out.shape)).sum().backward()
        found.append((out, [m.grad for m in maps.values()]))
    (out, gradients), (expected, expected_gradients) = found
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert other is not None and other.abs().sum() > 0  # every level has RoIs
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_one_level_and_no_boxes() -> None:
    x = OrderedDict({"16": torch.rand(1, 3, 8, 8)})
    pooler = SeparableRoIAlign(["16"], output_size=7, sampling_ratio=2).train()
    plain = MultiScaleRoIAlign(["16"], output_size=7, sampling_ratio=2)
    for boxes in ([boxes_of(5, 128, 5)], [torch.zeros(0, 4)]):
        out = pooler(x, boxes, [(128, 128)])
        torch.testing.assert_close(out, plain(x, boxes, [(128, 128)]), rtol=1e-5, atol=1e-5)
