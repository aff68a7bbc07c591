"""The training loop: accelerate for devices and precision, resumed to the exact step.

A step is a function of (weights, optimiser state, step number): batches and every random draw of
a step derive from ``(seed, step)``. A checkpoint therefore needs no random state, and a run that
was killed ends with the bytes of a run that was not.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from relabel.errors import RelabelError, StageError
from relabel.settings import Runtime, settings_dict
from relabel.training.ema import applied, moving_average
from relabel.training.memory import keep_freed_memory
from relabel.training.prefetch import prefetch
from relabel.training.settings import TrainSettings
from relabel.training.shared import (
    average_gradients,
    averaged,
    barrier,
    begin_together,
    check_device,
    gathered,
    see_whole_batches,
)
from relabel.workspace.atomic import atomic_write_json
from relabel.workspace.cores import reading_threads
from relabel.workspace.progress import message, progress
from relabel.workspace.ranks import check_batch, launched, rank, world

CHECKPOINT = "checkpoint"


@dataclass
class FitResult:
    """What training left: the steps done, the last mean losses, validation results by step."""

    steps: int
    losses: dict[str, float]
    history: list[dict[str, float]]


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` as accelerate's name for what the device computes fastest without harm."""
    if precision != "auto":
        return "no" if precision == "fp32" else precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if device.type == "cpu":
        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return "bf16" if probe is not None and probe() else "no"
    return "no"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The forward pass's arithmetic as a context, outside of training."""
    names = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = names.get(resolve_precision(precision, device))
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def resolve_device(device: str) -> torch.device:
    """``auto`` as the best device there is.

    Raises:
        RelabelError: the named device does not exist here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise RelabelError(
            f"device {device!r} cannot be used: {str(error).splitlines()[0]}",
            remedy="`relabel doctor` lists the devices of this machine.",
        ) from error
    return chosen


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """A seed for one step, another one for each stream; 63 bits, well mixed (SplitMix64)."""
    z = (
        seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB + 1
    ) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return (z ^ (z >> 31)) >> 1


def fit(
    model: nn.Module,
    batch: Callable[[int], Any],
    losses: Callable[[nn.Module, Any], dict[str, Tensor]],
    *,
    steps: int,
    out: Path,
    settings: TrainSettings,
    runtime: Runtime,
    description: str,
    backbone_parameters: set[int] | None = None,
    rates: Mapping[int, float] | None = None,
    evaluate: Callable[[nn.Module, int], dict[str, float]] | None = None,
    after_step: Callable[[nn.Module, int], None] | None = None,
    stateful: Sequence[Any] = (),
) -> FitResult:
    """Train ``model`` in place, resuming from ``out/checkpoint`` where there is one.

    In a training of several processes (`relabel.workspace.ranks`) ``batch`` gives each its part of
    the step's images. Rank 0 alone validates and writes; the files, which all read, do not depend
    on the number of processes.

    Args:
        model: moved to the device; only parameters with ``requires_grad`` are trained.
        batch: step number to a batch, called in threads; depends on its argument alone.
        losses: model and batch to named losses, which are summed. Called under autocast.
        steps: number of optimiser steps.
        out: folder of the checkpoint and of ``training.json`` (losses and validations).
        backbone_parameters: ``id`` of the parameters that learn at ``backbone_lr_scale``.
        rates: peak learning rates of single parameters by ``id``, in place of ``lr``.
        evaluate: model (with averaged weights where EMA is on) and step to named results.
        after_step: called with the model and the number of steps done, after each of them.
        stateful: objects with ``state_dict`` and ``load_state_dict`` that go into the checkpoint.

    Raises:
        RelabelError: the loss became NaN or infinite.
        ConfigError: the processes cannot share the batch or the GPUs evenly.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    keep_freed_memory()
    device = resolve_device(runtime.device)
    if world() > 1:
        check_batch(settings.batch_size, settings.section)
        check_device(device)
        see_whole_batches(model)
    elif launched() > 1:
        message(f"{description}: one of {launched()} processes trains it", quiet=runtime.quiet)
    # accelerate keeps the precision of a process's first training; each of ours has its own.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=resolve_precision(settings.precision, device),
        cpu=device.type == "cpu",
    )
    optimizer = build_optimizer(model, settings, backbone_parameters or set(), rates)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, steps, settings.warmup, settings.decay)
    )
    if accelerator.device.type == "cpu":
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.to(accelerator.device)
    ema = None
    if settings.ema > 0:
        ema = moving_average(model, settings.ema)
        ema.update_parameters(model)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    state = _Progress()
    accelerator.register_for_checkpointing(state, scheduler, *([ema] if ema else []), *stateful)
    folder = out / CHECKPOINT
    _resume(accelerator, folder)
    _check_same_step(state.step, folder)
    begin_together(model)

    last_saved = time.monotonic()
    batches = prefetch(batch, state.step, steps, workers=reading_threads(runtime.workers))
    title = progress(description, total=steps, unit="it", quiet=runtime.quiet)
    with title as bar:
        if state.step:
            bar.update(state.step)
        started = time.monotonic()
        first = state.step
        for step, data in enumerate(batches, start=state.step):
            torch.manual_seed(step_seed(settings.seed, step))
            prepared.train()
            with accelerator.autocast():
                parts = losses(prepared, data)
            total = torch.stack([v.float() for v in parts.values()]).sum()
            means = averaged(torch.stack([total, *(v.float() for v in parts.values())]))
            accelerator.backward(total)
            # Asked for once the backward pass is under way: the answer waits for the GPU.
            told = means.tolist()
            if not math.isfinite(told[0]):
                raise RelabelError(
                    f"the loss became {told[0]} at step {step}",
                    file=out,
                    remedy=_calmer(settings),
                )
            average_gradients(prepared.parameters())
            if settings.grad_clip > 0:
                accelerator.clip_grad_norm_(prepared.parameters(), settings.grad_clip)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            if ema is not None:
                ema.update_parameters(model)
            state.advance(dict(zip(parts, told[1:], strict=True)))
            if after_step is not None:
                after_step(model, state.step)
            rate = (state.step - first) * settings.batch_size / (time.monotonic() - started)
            bar.update(1, loss=round(state.mean_total(), 3), **{"images/s": round(rate, 1)})
            due = settings.eval_every and state.step % settings.eval_every == 0
            if rank() == 0 and evaluate is not None and (due or state.step == steps):
                state.history.append(
                    {"step": state.step, **_evaluated(model, ema, evaluate, state.step)}
                )
            late = time.monotonic() - last_saved > settings.checkpoint_every
            if rank() == 0 and late and state.step < steps:
                _save(accelerator, folder)
                last_saved = time.monotonic()
    if ema is not None:
        model.load_state_dict(ema.module.state_dict())
    # Read back from its weights the model would not have the forward pass of mixed precision.
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    model.eval()
    if rank() == 0:
        atomic_write_json(
            out / "training.json",
            {
                "steps": state.step,
                "losses": {k: round(v, 6) for k, v in state.losses.items()},
                "validation": state.history,
                "settings": settings_dict(settings),
            },
        )
    return FitResult(state.step, dict(state.losses), list(state.history))


def drop_checkpoint(out: Path) -> None:
    """Remove the resume point of a finished training; its result stands in the folder."""
    shutil.rmtree(out / CHECKPOINT, ignore_errors=True)


def build_optimizer(
    model: nn.Module,
    settings: TrainSettings,
    backbone: set[int],
    rates: Mapping[int, float] | None = None,
) -> torch.optim.Optimizer:
    """Optimiser over the trainable parameters; norms and biases get no weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            scale = settings.backbone_lr_scale if id(parameter) in backbone else 1.0
            lr = (rates or {}).get(id(parameter), settings.lr * scale)
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    parameters = [
        {"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=0.9)
    return torch.optim.AdamW(parameters, lr=settings.lr, fused=True)


def lr_factor(step: int, steps: int, warmup: float, decay: float = 1.0) -> float:
    """Linear warm-up, the peak until the last ``decay`` of the steps, a cosine to 1 % of it."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    falling = max(rising, steps - round(steps * decay))
    if step < falling:
        return 1.0
    done = (step - falling) / max(1, steps - falling)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def total_steps(settings: TrainSettings, images: int) -> int:
    """Number of optimiser steps the settings ask for on a set of ``images``."""
    if settings.steps > 0:
        return settings.steps
    return max(1, math.ceil(settings.epochs * images / settings.batch_size))


class _Progress:
    """The loop's own state, in the checkpoint: step, smoothed losses, validation history."""

    def __init__(self) -> None:
        self.step = 0
        self.losses: dict[str, float] = {}
        self.history: list[dict[str, float]] = []

    def advance(self, parts: dict[str, float]) -> None:
        self.step += 1
        for name, value in parts.items():
            old = self.losses.get(name, value)
            self.losses[name] = old + 0.05 * (value - old)

    def mean_total(self) -> float:
        return sum(self.losses.values())

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "losses": json.dumps(self.losses),
            "history": json.dumps(self.history),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = int(state["step"])
        self.losses = json.loads(state["losses"])
        self.history = json.loads(state["history"])


def _evaluated(
    model: nn.Module,
    ema: AveragedModel | None,
    evaluate: Callable[[nn.Module, int], dict[str, float]],
    step: int,
) -> dict[str, float]:
    model.eval()
    if ema is None:
        return evaluate(model, step)
    with applied(ema, model):
        return evaluate(model, step)


def _save(accelerator: Any, folder: Path) -> None:
    # The new checkpoint is complete before the old one goes; `_resume` finishes a cut-off swap.
    fresh, old = folder.with_name("checkpoint.new"), folder.with_name("checkpoint.old")
    shutil.rmtree(fresh, ignore_errors=True)
    accelerator.save_state(str(fresh), safe_serialization=True)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _resume(accelerator: Any, folder: Path) -> None:
    old = folder.with_name("checkpoint.old")
    if rank() == 0 and not folder.exists() and old.exists():
        old.rename(folder)
    barrier()
    if not folder.exists():
        return
    try:
        accelerator.load_state(str(folder))
    except Exception as error:
        # Anything from a short file to another architecture ends here; all have one remedy.
        raise StageError(
            f"the checkpoint cannot be resumed: {str(error).splitlines()[0]}",
            file=folder,
            remedy="Delete the folder, or run with --overwrite, to train from the start.",
        ) from error


def _check_same_step(step: int, folder: Path) -> None:
    steps = gathered(step)
    if len(set(steps)) > 1:
        raise StageError(
            f"the processes resume at different steps: {', '.join(map(str, steps))}",
            file=folder,
            remedy="They must all see the same folder: put --out where every machine has it.",
        )


def _calmer(settings: TrainSettings) -> str:
    """What to change where the loss left all bounds."""
    key = f"--set {settings.section}." if settings.section else ""
    single = "" if settings.precision == "fp32" else f", or train with {key}precision=fp32"
    return f"Lower the learning rate: {key}lr={settings.lr / 3:.1g}{single}; run with --overwrite."
