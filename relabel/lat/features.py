"""Region features from a frozen backbone: computed once per image, then pooled per proposal.

Shape legend: ``B`` images, ``M`` proposals, ``d_s`` channels at stride ``s``, ``p`` cells per
side of a pooled region, ``F = sum(d_s) * p * p``.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from relabel.backbones.extractor import BackboneSpec, FeatureExtractor, resolve_backbone
from relabel.detectors.load import load_detector
from relabel.errors import ConfigError, DataError
from relabel.lat.settings import LatSettings
from relabel.training.loop import autocast
from relabel.training.memory import keep_freed_memory
from relabel.training.pixels import stack_images
from relabel.workspace.fingerprint import fingerprint

SPECIALIST = "specialist"
POOL_SIZE = 7


class FrozenFeatures:
    """A frozen backbone with a PCA per stride, pooled over boxes by RoIAlign (He et al., 2017).

    The PCA is fitted once on training images, so that pooled regions are small enough to keep;
    its components are scaled to unit variance.
    """

    def __init__(
        self,
        body: FeatureExtractor,
        settings: LatSettings,
        device: torch.device,
        source: str,
        pca: dict[str, Tensor] | None = None,
    ) -> None:
        keep_freed_memory()
        self.body = body.to(device).eval().requires_grad_(False)
        self.settings = settings
        self.device = device
        self.source = source
        self.pca = pca or {}
        near = {min(body.strides, key=lambda s: abs(s - wish)) for wish in settings.feature_strides}
        self.strides = sorted(near)

    @classmethod
    def create(
        cls, settings: LatSettings, device: torch.device, specialist: Path | None = None
    ) -> FrozenFeatures:
        """From a backbone's name, or from a trained specialist's own backbone.

        Raises:
            ConfigError: the backbone is not available, or the specialist has none to take.
            DataError: the specialist's checkpoint is damaged.
        """
        if settings.backbone == SPECIALIST:
            if specialist is None:
                raise DataError(
                    "no specialist whose backbone could be taken",
                    remedy="Name a folder or hub id: --set lat.backbone=NAME.",
                )
            detector: Any = load_detector(specialist, device="cpu")
            body = detector.model.backbone.body
            if body is None:
                raise ConfigError(
                    "the specialist is a whole pretrained RT-DETR, whose backbone cannot be "
                    "taken alone",
                    file=specialist,
                    remedy="Name a folder or hub id: --set lat.backbone=facebook/dinov2-base.",
                )
            return cls(body, settings, device, SPECIALIST)
        spec = resolve_backbone(settings.backbone)
        body = FeatureExtractor(spec, settings.backbone)
        return cls(body, settings, device, settings.backbone)

    def on(self, device: torch.device) -> FrozenFeatures:
        """A copy of it on another device."""
        body = copy.deepcopy(self.body)
        return FrozenFeatures(body, self.settings, device, self.source, self.pca)

    @property
    def width(self) -> int:
        """F, values per pooled region."""
        channels = sum(self._channels(s) for s in self.strides)
        return channels * POOL_SIZE**2

    def _channels(self, stride: int) -> int:
        full = self.body.channels[stride]
        wanted = self.settings.feature_channels
        return full if wanted <= 0 else min(full, wanted)

    def fit_pca(self, images: Sequence[np.ndarray]) -> None:
        """Fit the PCA of every stride on some images' feature maps (float64, exact)."""
        sums: dict[int, list[Any]] = {}
        for image in images:
            maps, _ = self._raw([image])
            for stride in self.strides:
                x = maps[stride][0].flatten(1).double().cpu()
                entry = sums.setdefault(stride, [0, 0.0, 0.0])
                entry[0] += x.shape[1]
                entry[1] = entry[1] + x.sum(dim=1)
                entry[2] = entry[2] + x @ x.T
        for stride, (n, total, outer) in sums.items():
            mean = total / n
            values, vectors = torch.linalg.eigh(outer / n - torch.outer(mean, mean))
            keep = self._channels(stride)
            values, vectors = values.flip(0)[:keep], vectors.flip(1)[:, :keep]
            scale = values.clamp(min=float(values[0]) * 1e-4).rsqrt()
            self.pca[f"mean.{stride}"] = mean.float()
            self.pca[f"basis.{stride}"] = (vectors * scale).T.contiguous().float()

    def pool(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Pooled regions, float16 [M_i, F] per image.

        Args:
            images: uint8 [H, W, 3] RGB.
            boxes: float32 [M_i, 4] xyxy in pixels of the image as given.
        """
        maps, scales = self._raw(images)
        factors = [boxes[0].dtype.type(1) * np.array([sx, sy, sx, sy]) for sy, sx in scales]
        rois = [
            torch.from_numpy((b * f).astype(np.float32)).to(self.device)
            for b, f in zip(boxes, factors, strict=True)
        ]
        size = POOL_SIZE
        pooled = []
        for stride in self.strides:
            x = self._reduced(maps[stride], stride)
            pooled.append(
                roi_align(x, rois, size, spatial_scale=1 / stride, sampling_ratio=2, aligned=True)
            )
        flat = torch.cat(pooled, dim=1).flatten(1).clamp(-60000, 60000).half().cpu().numpy()
        return np.split(flat, np.cumsum([len(b) for b in boxes])[:-1])

    def _raw(
        self, images: Sequence[np.ndarray]
    ) -> tuple[dict[int, Tensor], list[tuple[float, float]]]:
        s = self.settings
        batch, _, scales = stack_images(
            images, s.image_size, s.max_image_size, self.body.divisor, self.device
        )
        batch = batch.to(self.device, memory_format=torch.channels_last)
        with torch.inference_mode(), autocast(s.precision, self.device):
            maps = self.body(batch)
        return {k: v.float() for k, v in maps.items()}, scales

    def _reduced(self, x: Tensor, stride: int) -> Tensor:
        mean = self.pca[f"mean.{stride}"].to(x.device)
        basis = self.pca[f"basis.{stride}"].to(x.device)
        with torch.inference_mode():
            return torch.einsum("bchw,dc->bdhw", x - mean[None, :, None, None], basis).contiguous()

    def fingerprint(self) -> str:
        """Identifies the pooled values: backbone, PCA, image and pool sizes."""
        s = self.settings
        sizes = [s.image_size, s.max_image_size, POOL_SIZE, s.precision, self.strides]
        parts = [zlib.crc32(v.numpy().tobytes()) for v in self.pca.values()]
        return fingerprint([self.to_config(), sizes, parts])

    def to_config(self) -> dict[str, Any]:
        """JSON-ready description, for `from_config`."""
        return {"source": self.source, **asdict(self.body.spec)}

    def weights(self) -> dict[str, Tensor]:
        """Tensors to store beside the model: the PCA, and backbone weights nobody else keeps."""
        kept = {f"pca.{k}": v for k, v in self.pca.items()}
        if self.source == SPECIALIST or Path(self.source).is_dir():
            # A local folder may move; the hub and torchvision keep theirs.
            state = self.body.net.state_dict()
            kept |= {f"backbone.{k}": v.detach().cpu().contiguous() for k, v in state.items()}
        return kept

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        weights: dict[str, Tensor],
        settings: LatSettings,
        device: torch.device,
    ) -> FrozenFeatures:
        """Rebuild what `to_config` and `weights` described."""
        spec = BackboneSpec.from_dict(config)
        stored = {k[9:]: v for k, v in weights.items() if k.startswith("backbone.")}
        body = FeatureExtractor(spec, None if stored else config["source"])
        if stored:
            body.net.load_state_dict(stored)
        pca = {k[4:]: v for k, v in weights.items() if k.startswith("pca.")}
        return cls(body, settings, device, config["source"], pca)
