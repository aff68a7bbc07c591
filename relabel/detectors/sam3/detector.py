"""SAM 3 (Carion et al., 2025) through transformers, as a text-prompted `Detector`.

The vision encoder sees an image once; every class's prompt is then detected on its features, many
pairs of image and prompt at a time. Masks are not computed: only boxes and scores are wanted.

Shape legend: ``B`` images, ``C`` classes (one prompt each), ``P`` pairs of image and prompt,
``Q`` queries of the decoder, ``L`` tokens of a prompt, ``d`` channels, ``n`` boxes of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relabel.backbones.views import quiet_transformers
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections
from relabel.detectors.sam3.settings import Sam3Settings, class_prompts
from relabel.errors import ConfigError, DataError, RelabelError
from relabel.files.json_text import read_object
from relabel.files.opening import foreign, said_of
from relabel.files.tensors import check_model_folder
from relabel.geometry import iou_matrix
from relabel.settings import settings_dict, settings_from

MIN_SCORE = 0.01
TOP_DETECTIONS = 300
# Boxes that are compared with each other; the rest scores too low to be kept.
_COMPARED = 1000
_MODEL_TYPES = ("sam3", "sam3_video")


class Sam3Detector:
    """SAM 3 with the classes of one label space as prompts: a `Detector`."""

    def __init__(
        self, model: Any, processor: Any, space: LabelSpace, settings: Sam3Settings, device: Any
    ) -> None:
        """Takes over a ``Sam3Model`` in eval mode: what boxes do not need is taken out of it.

        Raises:
            ConfigError: the space has no classes, or a prompt is too long.
        """
        self._space = space
        self.settings = settings
        self.device = device
        self.model = model.to(device).eval()
        self.processor = processor
        self._side = settings.image_size or int(processor.image_processor.size["height"])
        self._text, self._mask = self._encode_prompts(class_prompts(space))
        _boxes_only(self.model)

    @property
    def space(self) -> LabelSpace:
        return self._space

    @classmethod
    def load(cls, space: LabelSpace, settings: Sam3Settings, device: str = "auto") -> Sam3Detector:
        """Load weights and processor from the hub, its cache, or a local folder.

        Raises:
            DataError: the weights are not available; the message names the remedy.
            ConfigError: an image size that does not fit the model, or see `Sam3Detector`.
        """
        import torch
        from transformers import Sam3Config, Sam3Model, Sam3Processor

        from relabel.training.loop import resolve_device

        reason = why_unavailable(settings.model)
        if reason is not None:
            raise DataError(reason)
        try:
            check_model_folder(settings.model)
            with quiet_transformers():  # the weights' tracker is left out on purpose
                config = Sam3Config.from_pretrained(settings.model, trust_remote_code=False)
                # The published checkpoint describes the video model, the detector inside it.
                inner = getattr(config, "detector_config", None)
                if inner is not None:
                    config = Sam3Config(**inner) if isinstance(inner, dict) else inner
                if settings.image_size:
                    _resize(config, settings.image_size)
                found: Any = Sam3Model.from_pretrained(
                    settings.model,
                    config=config,
                    dtype=torch.float32,
                    output_loading_info=True,
                    trust_remote_code=False,
                )
                model, loaded = found
                processor = Sam3Processor.from_pretrained(settings.model, trust_remote_code=False)
        except RelabelError:
            raise
        except Exception as error:
            raise DataError(
                f"SAM 3 {settings.model!r} cannot be loaded: {said_of(error)}",
                remedy=_remedy(settings.model),
            ) from error
        if loaded["missing_keys"]:  # transformers would leave them at random values
            raise DataError(
                f"SAM 3 {settings.model!r} lacks {len(loaded['missing_keys'])} weights, the first "
                f"is {min(loaded['missing_keys'])}",
                remedy="Fetch it again, or give a local transformers folder of SAM 3.",
            )
        return cls(model, processor, space, settings, resolve_device(device))

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detect every class in B images, each uint8 [H, W, 3] RGB; sizes may differ."""
        import torch

        from relabel.training.loop import autocast

        if not images:
            return []
        size = {"height": self._side, "width": self._side}
        pixels = self.processor.image_processor(
            list(images),
            return_tensors="pt",
            input_data_format="channels_last",
            size=size,
            device=self.device,
        )["pixel_values"].to(self.device)
        classes = self._space.num_classes
        pairs = torch.arange(len(images) * classes, device=self.device)
        boxes, scores = [], []
        with torch.inference_mode(), autocast(self.settings.precision, self.device):
            vision = self.model.get_vision_features(pixels)
            for part in pairs.split(self.settings.prompt_batch):
                found = self._detect(vision, part // classes, part % classes)
                boxes.append(found[0])
                scores.append(found[1])
        boxes = torch.cat(boxes).view(len(images), -1, 4).cpu().numpy()  # [B, C * Q, 4]
        scores = torch.cat(scores).view(len(images), -1).cpu().numpy()  # [B, C * Q]
        label = np.repeat(np.arange(classes), scores.shape[1] // classes)
        return [
            self._of_image(box, score, label, image.shape[1], image.shape[0])
            for box, score, image in zip(boxes, scores, images, strict=True)
        ]

    def _detect(self, vision: Any, image: Any, prompt: Any) -> tuple[Any, Any]:
        """Boxes [P, Q, 4] xyxy in [0, 1] and scores [P, Q] of pairs (image [P], prompt [P])."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        embeds = type(vision)(
            fpn_hidden_states=tuple(level[image] for level in vision.fpn_hidden_states),
            fpn_position_encoding=tuple(
                level[image] if len(level) > 1 else level.expand(len(image), -1, -1, -1)
                for level in vision.fpn_position_encoding
            ),
        )
        found = self.model(
            vision_embeds=embeds,
            text_embeds=BaseModelOutputWithPooling(pooler_output=self._text[prompt]),
            attention_mask=self._mask[prompt],
        )
        scores = found.pred_logits.float().sigmoid()
        if found.presence_logits is not None:
            scores = scores * found.presence_logits.float().sigmoid()
        return found.pred_boxes.float(), scores

    def _of_image(
        self, boxes: np.ndarray, scores: np.ndarray, label: np.ndarray, width: int, height: int
    ) -> Detections:
        """From all queries of an image, boxes relative to it, to its detections."""
        rows = np.flatnonzero(scores > MIN_SCORE)
        rows = rows[np.argsort(-scores[rows], kind="stable")[:_COMPARED]]
        size = np.array([width, height, width, height], np.float32)
        boxes = np.clip(boxes[rows], 0, 1) * size
        sound = ((boxes[:, 2:] - boxes[:, :2]) > 0.5).all(axis=1)
        rows, boxes = rows[sound], boxes[sound]
        boxes, vectors = merge_prompts(
            boxes, scores[rows], label[rows], self._space.num_classes, self.settings.merge_iou
        )
        return Detections(boxes[:TOP_DETECTIONS], vectors[:TOP_DETECTIONS])

    def _encode_prompts(self, prompts: list[str]) -> tuple[Any, Any]:
        """Text features [C, L, d] and their mask [C, L], computed once."""
        import torch

        from relabel.training.loop import autocast

        if not prompts:
            raise ConfigError(
                f"label space {self._space.name!r} has no classes to prompt for",
                remedy="Give one with categories that are not ignored.",
            )
        tokenizer = self.processor.tokenizer
        limit = int(self.model.config.text_config.max_position_embeddings)
        for name, prompt in zip(self._space.class_names, prompts, strict=True):
            length = len(tokenizer(prompt)["input_ids"])
            if length > limit:
                raise ConfigError(
                    f"the prompt of category {name!r} has {length} tokens, SAM 3 reads {limit}",
                    remedy=f"Shorten {prompt!r}.",
                )
        text = tokenizer(prompts, return_tensors="pt", padding="max_length", max_length=limit)
        ids, mask = text["input_ids"].to(self.device), text["attention_mask"].to(self.device)
        with torch.inference_mode(), autocast(self.settings.precision, self.device):
            found = self.model.get_text_features(input_ids=ids, attention_mask=mask)
        return found.pooler_output, mask

    def save(self, folder: Path) -> None:
        """Write a checkpoint folder for `load_detector`: which SAM 3, and the prompts.

        It holds no weights; they stay where ``settings.model`` names them.
        """
        from relabel.workspace.atomic import atomic_write_json

        Path(folder).mkdir(parents=True, exist_ok=True)
        atomic_write_json(
            Path(folder) / "config.json",
            {
                "detector": "sam3",
                "space": self._space.to_dict(),
                "settings": settings_dict(self.settings),
            },
        )

    @classmethod
    def from_folder(cls, folder: Path, device: str = "auto") -> Sam3Detector:
        """Load what `save` wrote.

        Raises:
            DataError: damaged, or the weights are not available.
        """
        file = Path(folder) / "config.json"
        config = read_object(file)
        with foreign(file, "a SAM 3 prompted detector"):
            space = LabelSpace.from_dict(config["space"], file=file)
            settings = settings_from(Sam3Settings, config["settings"], where=str(file))
        return cls.load(space, settings, device)


def merge_prompts(
    boxes: np.ndarray, scores: np.ndarray, label: np.ndarray, num_classes: int, iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Make near-identical boxes one row with the scores of all their prompts.

    From the highest score down, a box takes over the scores of the boxes that overlap it more
    than ``iou``; of several of one prompt the highest counts.

    Args:
        boxes: [n, 4] xyxy, highest score first.
        scores, label: [n], of the prompt that found the box.

    Returns:
        boxes float32 [k, 4] and score vectors float32 [k, C], highest first.
    """
    overlap = iou_matrix(boxes, boxes) > iou
    free = np.ones(len(boxes), dtype=bool)
    kept: list[int] = []
    vectors = np.zeros((len(boxes), num_classes), np.float32)
    for row in range(len(boxes)):
        if not free[row]:
            continue
        taken = overlap[row] & free
        taken[row] = True
        np.maximum.at(vectors[len(kept)], label[taken], scores[taken])
        free[taken] = False
        kept.append(row)
    return boxes[kept].astype(np.float32).reshape(-1, 4), vectors[: len(kept)]


def why_unavailable(model: str) -> str | None:
    """Why SAM 3's weights are not available, with the remedy; None where they are.

    Looks for a local folder, else asks the hub (or its cache) for the model's configuration.
    Imports no torch.
    """
    folder = Path(model).expanduser()
    if folder.is_dir() or model.startswith(("/", ".", "~")):
        return _why_not_folder(folder, model)
    reason = _why_not_hub(model)
    return reason and f"SAM 3's weights {model!r} are not available: {reason}. {_remedy(model)}"


def _why_not_hub(model: str) -> str | None:
    """A whole copy in the hub's cache is enough; else one request tells, without retries."""
    import huggingface_hub as hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        names = ("config.json", "model.safetensors")
        config, weights = (hub.try_to_load_from_cache(model, name) for name in names)
        if not (isinstance(config, str) and isinstance(weights, str)):
            hub.get_hf_file_metadata(hub.hf_hub_url(model, "config.json"), timeout=10)
            config = hub.hf_hub_download(model, "config.json")
    except GatedRepoError:
        return "its licence has not been accepted by this account"
    except (RepositoryNotFoundError, HFValidationError):
        return "the hub has no such model, or it is private"
    except HfHubHTTPError as error:
        return _first_line(error)
    except Exception as error:  # of the HTTP library, whichever the hub's client uses
        return f"the hub cannot be reached ({_first_line(error)})"
    return _why_not_config(Path(config))


def _why_not_folder(folder: Path, model: str) -> str | None:
    if not folder.is_dir():
        reason = "there is no such folder"
    elif not (folder / "config.json").is_file():
        reason = "the folder has no config.json"
    elif not any(folder.glob("*.safetensors")):
        reason = "the folder has no safetensors weights"
    else:
        reason = _why_not_config(folder / "config.json")
    return reason and f"SAM 3's weights {model!r} are not available: {reason}. {_remedy(model)}"


def _why_not_config(file: Path) -> str | None:
    try:
        kind = read_object(file).get("model_type")
    except DataError:
        return "its config.json is not valid"
    return None if kind in _MODEL_TYPES else f"it is a {kind!r} model"


def _remedy(model: str) -> str:
    hub = model if not Path(model).expanduser().is_absolute() else "facebook/sam3"
    return (
        f"Accept the licence at https://huggingface.co/{hub} and run `hf auth login`, or give a "
        "local transformers folder of SAM 3 as its model."
    )


def _resize(config: Any, side: int) -> None:
    patch = int(config.vision_config.backbone_config.patch_size)
    if side % patch:
        near = max(patch, side // patch * patch)
        raise ConfigError(
            f"SAM 3's image_size is {side}",
            remedy=f"Use a multiple of its patch of {patch} pixels, such as {near}.",
        )
    config.image_size = side


def _boxes_only(model: Any) -> None:
    """Take out of a ``Sam3Model`` what only masks, text and box prompts need.

    The detection head reads the pyramid's last level but one; the finer ones are for masks.
    """
    import torch
    from transformers.models.sam3.modeling_sam3 import Sam3MaskDecoderOutput

    class NoMasks(torch.nn.Module):
        def forward(self, **_: Any) -> Any:
            return Sam3MaskDecoderOutput()

    model.mask_decoder = NoMasks()
    model.text_encoder = torch.nn.Identity()
    model.geometry_encoder = torch.nn.Identity()
    neck = model.vision_encoder.neck
    neck.fpn_layers = torch.nn.ModuleList(list(neck.fpn_layers)[-2:])


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
