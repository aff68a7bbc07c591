"""Training on labelled and unlabelled images: a student, and its average that teaches it.

Consistency-based pseudo-labelling (Li et al., arXiv 2106.00168, section 2.1, on the teacher and
student of Unbiased Teacher, Liu et al., ICLR 2021). The student trains on labelled images alone
for the burn-in. Then the teacher, its moving average, labels a weak view of unlabelled images, and
the student learns those labels on a strong view. What is measured and saved is the teacher (the
student before there is one).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from relabel.datasets.dataset import DetectionDataset
from relabel.detectors.base import Detector
from relabel.detectors.family import Trainable
from relabel.detectors.semi.batches import (
    Schedule,
    SemiBatch,
    SemiBatches,
    burn_in_steps,
    student_batch,
    usual_schedule,
)
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.semi.teacher import Teacher
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import MAPS, check_objects
from relabel.detectors.training import Evaluate, new_trainable, on_device
from relabel.files.json_text import read_object
from relabel.files.tensors import read_tensors
from relabel.settings import Runtime
from relabel.training.loop import drop_checkpoint, fit, resolve_device, total_steps
from relabel.workspace.atomic import atomic_path, atomic_write_json
from relabel.workspace.progress import message

PSEUDO_BOXES = "pseudo_boxes.json"
TRAINING = "training.json"
UNSUPERVISED = "pseudo_"
_BEST = "best.safetensors"
# Evaluations of a training that keeps its best, where the settings name no interval.
_EVALUATIONS = 10
# Looks at what the teacher labelled, over the steps after the burn-in.
_LOOKS = 5
# Published runs with two labelled and two unlabelled images lost most of their AP.
_FEW_IMAGES = 4


def train_with_unlabelled(
    train: DetectionDataset,
    unlabelled: Mapping[str, DetectionDataset],
    out: Path,
    settings: SpecialistSettings,
    semi: SemiSettings,
    runtime: Runtime,
    *,
    validate: Callable[[Detector], dict[str, float]] | None = None,
    maps: Path | None = None,
) -> Path:
    """Train a specialist on its dataset and on images without labels.

    What `relabel.detectors.specialist.train_specialist` is for labels alone, with the same files.
    ``epochs`` count labelled and unlabelled images together, in steps of ``batch_size`` images: the
    unlabelled ones of a step come on top.

    Args:
        train: the labelled images.
        unlabelled: by name; only their images are used.
        validate: named results of a detector on held-back images; the weights with the highest
            ``AP`` are kept, and their step is ``kept`` in ``metrics.json``. Without it the last
            ones are.
        maps: folder of a frozen backbone's maps that stays; by default one in ``out`` that goes.

    Raises:
        DataError: no images or no boxes to learn from, or an image that cannot be read.
    """
    check_objects(train)
    settings = settings.resolved()
    images = len(train) + sum(len(d) for d in unlabelled.values())
    train_semi_supervised(
        train,
        unlabelled,
        out,
        replace(settings, steps=total_steps(settings, images)),
        semi,
        runtime,
        evaluate=None if validate is None else lambda detector, _step: validate(detector),
        keep_best=validate is not None,
        maps=maps or out / MAPS,
    )
    told = read_object(out / TRAINING)
    metrics = {k: told[k] for k in ("validation", "kept") if k in told}
    atomic_write_json(out / "metrics.json", metrics)
    shutil.rmtree(out / MAPS, ignore_errors=True)
    return out


def train_semi_supervised(
    labelled: DetectionDataset,
    unlabelled: Mapping[str, DetectionDataset],
    out: Path,
    detector: SpecialistSettings,
    semi: SemiSettings,
    runtime: Runtime,
    *,
    schedule: Schedule | None = None,
    evaluate: Evaluate | None = None,
    keep_best: bool = False,
    maps: Path | None = None,
) -> Path:
    """Train a detector on labelled images and on others without their labels.

    Resumes from the checkpoint in ``out`` if it has one, to the same bits. Beside what every
    training writes, ``pseudo_boxes.json`` has the number of pseudo-boxes of each class, its
    threshold and its weight.

    Args:
        labelled: training images with the labels to learn.
        unlabelled: by name; only their images are used.
        detector: resolved; its ``steps`` are the length of the training. Its ``ema`` has no
            influence, since the teacher is the average.
        schedule: the images of each step, see `SemiBatches`; by default `usual_schedule`.
        evaluate: detector and step to named results, at ``eval_every`` and at the end.
        keep_best: save the detector with the highest ``AP`` that ``evaluate`` saw, not the last:
            to be measured on images held back from training, never on test images.
        maps: folder of a frozen backbone's maps, for labelled images and weak views; None reads
            pixels.

    Returns:
        The checkpoint folder with the teacher, for `load_detector`.

    Raises:
        RelabelError: the loss became NaN or infinite.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(runtime.device)
    student = new_trainable(labelled.space, detector)
    burn_in = burn_in_steps(detector.steps, semi)
    batches = SemiBatches(
        labelled,
        unlabelled,
        schedule or usual_schedule(labelled, unlabelled, detector, semi),
        detector,
        semi,
        student.model.divisor,
        store=None if maps is None else student.map_store(maps, device),
        runtime=runtime,
    )
    teacher = Teacher(student, semi, burn_in, device)
    watch = Watch(teacher, detector, semi, runtime.quiet)
    best = BestWeights(out / _BEST)
    if keep_best and not detector.eval_every:
        detector = replace(detector, eval_every=math.ceil(detector.steps / _EVALUATIONS))

    def losses(net: Any, data: SemiBatch) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        if data.labelled is not None:
            parts.update(net(*on_device(data.labelled, device)))
        if data.weak is None:
            return parts
        weak = data.weak.to(device, memory_format=torch.channels_last)
        seen = student_batch(data, teacher.label(weak, data.sizes), student.model.divisor)
        if seen is not None:
            for name, value in net(*on_device(seen, device)).items():
                if semi.boxes or not is_box_loss(name):
                    parts[UNSUPERVISED + name] = semi.unsupervised_weight * value
        watch.saw(parts)
        return parts or {UNSUPERVISED + "none": zero_loss(student.model)}

    def after_step(model: nn.Module, step: int) -> None:
        teacher.follow(model, step)
        watch.look(step)

    def measured(_model: Any, step: int) -> dict[str, float]:
        assert evaluate is not None
        current = teacher.trainable if teacher.exists(step) else student
        found = evaluate(current.detector(device), step)
        if keep_best:
            best.offer(current, step, found.get("AP"))
        return found

    watch.begin()
    fit(
        student.model,
        batches,
        losses,
        steps=detector.steps,
        out=out,
        settings=replace(detector, ema=0.0),
        runtime=runtime,
        description=f"Training student and teacher on {labelled.name}",
        backbone_parameters=student.backbone_parameters(),
        evaluate=measured if evaluate is not None else None,
        after_step=after_step,
        stateful=[teacher.average, teacher.statistics, teacher.log, watch, best],
    )
    final = teacher.trainable if teacher.exists(detector.steps) else student
    best.restore(final, detector.steps, runtime.quiet)
    if keep_best:
        atomic_write_json(out / TRAINING, {**read_object(out / TRAINING), "kept": best.step})
    atomic_write_json(out / PSEUDO_BOXES, pseudo_boxes(teacher))
    final.save(out)
    drop_checkpoint(out)
    best.file.unlink(missing_ok=True)
    return out


def zero_loss(model: nn.Module) -> Tensor:
    """What a step costs in which there is nothing to learn: 0, with a gradient of zeros."""
    return 0 * next(p for p in model.parameters() if p.requires_grad).sum()


def is_box_loss(name: str) -> bool:
    """Whether a named loss is about coordinates, as opposed to classes or objectness."""
    return "box" in name or "giou" in name


def pseudo_boxes(teacher: Teacher) -> dict[str, dict[str, float]]:
    """By class: pseudo-boxes of the whole training, and the last threshold and weight."""
    columns = zip(
        teacher.trainable.space.class_names,
        teacher.log.total.tolist(),
        teacher.thresholds().tolist(),
        teacher.weights().tolist(),
        strict=True,
    )
    return {
        name: {"boxes": count, "threshold": round(threshold, 4), "weight": round(weight, 4)}
        for name, count, threshold, weight in columns
    }


class Watch:
    """Tells, in a line each, what spoils a semi-supervised training without stopping it.

    Everything is said once: no pseudo-box at all, none of a class, boxes that are learned and cost
    nothing, batches of very few images. That the loss is no number stops every training, see `fit`;
    that a training got worse again is seen by `BestWeights`.
    """

    def __init__(
        self, teacher: Teacher, detector: SpecialistSettings, semi: SemiSettings, quiet: bool
    ) -> None:
        self.teacher = teacher
        self.semi = semi
        self.detector = detector
        self.quiet = quiet
        after = detector.steps - teacher.burn_in
        self.every = max(1, after // _LOOKS)
        self.box_loss = 0.0
        self.told: list[str] = []

    def begin(self) -> None:
        """Before the first step."""
        images = self.detector.batch_size + self.semi.unlabeled_images
        if images <= _FEW_IMAGES:
            self._say(
                "batch",
                f"{self.detector.batch_size} labelled and {self.semi.unlabeled_images} unlabelled "
                "images per step are too few for most published recipes: raise --batch-size and "
                "semi.unlabeled_images if training does not gain",
            )
        if self.teacher.burn_in >= self.detector.steps:
            self._say(
                "burn-in",
                "the burn-in is the whole training, unlabelled images are not looked at: lower "
                f"semi.burn_in (now {self.semi.burn_in:g})",
            )

    def saw(self, losses: Mapping[str, Tensor]) -> None:
        """The named losses of a step with unlabelled images."""
        for name, value in losses.items():
            if name.startswith(UNSUPERVISED) and is_box_loss(name):
                self.box_loss += float(value.detach())

    def look(self, step: int) -> None:
        """After ``step`` steps: what was labelled since the last look, where it is time for one."""
        passed = step - self.teacher.burn_in
        log = self.teacher.log
        if passed <= 0 or passed % self.every or not log.images:
            return
        names = self.teacher.trainable.space.class_names
        lower = f"lower semi.threshold (now {self.semi.threshold:g}) or train the burn-in longer"
        if not log.recent.any():
            self._say(
                "none",
                f"no pseudo-box in {log.images} images up to step {step}: nothing is learned of "
                f"them; the teacher's highest confidence is {log.best.max():.2f}: {lower}",
            )
        else:
            thresholds = self.teacher.thresholds()
            for c in (log.recent == 0).nonzero()[0].tolist():
                self._say(
                    f"class {c}",
                    f"no pseudo-box of {names[c]!r} in {log.images} images up to step {step}: its "
                    f"highest confidence is {log.best[c]:.2f}, its threshold {thresholds[c]:.2f}",
                )
            if self.semi.boxes and self.semi.unsupervised_weight > 0 and self.box_loss == 0:
                self._say(
                    "boxes",
                    f"pseudo-boxes cost nothing in their coordinates up to step {step}: no "
                    "proposal meets them; look at the detector's anchors and image size",
                )
        log.start()
        self.box_loss = 0.0

    def _say(self, key: str, text: str) -> None:
        if key not in self.told:
            self.told.append(key)
            message(text, quiet=self.quiet)

    def state_dict(self) -> dict[str, Any]:
        return {"box_loss": self.box_loss, "told": list(self.told)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.box_loss, self.told = float(state["box_loss"]), list(state["told"])


class BestWeights:
    """The weights with the highest AP on held-back images, in a file.

    Args:
        file: rewritten whenever there are better ones.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.ap = -1.0
        self.last = -1.0
        self.step = 0

    def offer(self, trainable: Trainable, step: int, ap: float | None) -> None:
        """Weights after ``step`` steps, with their AP; None counts as 0. Equal ones are newer."""
        self.last = 0.0 if ap is None else ap
        if self.last >= self.ap:
            self.ap, self.step = self.last, step
            state = {k: v.detach().cpu() for k, v in trainable.model.state_dict().items()}
            with atomic_path(self.file) as temporary:
                save_file({k: v.contiguous().clone() for k, v in state.items()}, str(temporary))

    def restore(self, trainable: Trainable, steps: int, quiet: bool) -> None:
        """Put the best weights into a model, where the last ones are worse."""
        if self.step and self.step != steps:
            trainable.model.load_state_dict(read_tensors(self.file))
            message(
                f"AP fell from {100 * self.ap:.1f} after step {self.step} to "
                f"{100 * self.last:.1f} at the end: the weights of step {self.step} are kept",
                quiet=quiet,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"ap": self.ap, "last": self.last, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ap, self.last = float(state["ap"]), float(state["last"])
        self.step = int(state["step"])
