"""A training that several processes share: the same numbers as one process has.

A step's batch is that of one process; each rank works on its rows. What is drawn at random is drawn
for the whole batch everywhere, sums are divided by counts of the whole batch, batch norms see all
of it, and gradients are averaged. All of this does nothing in a training of one process.

Gradients are averaged here and not by DistributedDataParallel, which wraps the model: checkpoints
would depend on the number of processes, and every weight would have to be used in every step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from relabel.errors import ConfigError
from relabel.workspace.ranks import processes_here, rank, world


def own_part(count: int) -> slice:
    """The rows of a batch of ``count`` that this process works on; see `check_batch`."""
    return slice(count * rank() // world(), count * (rank() + 1) // world())


def divisor(count: Tensor | int, least: float = 1) -> Any:
    """What this process divides its sum by to have the mean over processes right.

    That mean is then the sum over the whole batch, divided by the count over the whole batch.

    Args:
        count: over this process's part of the batch; a tensor where it is one.
        least: minimum of the count over the whole batch.
    """
    if world() == 1:
        return count.clamp(min=least) if isinstance(count, Tensor) else max(least, count)
    if isinstance(count, Tensor):
        total = count.detach().double()
        distributed.all_reduce(total)
        return (total.clamp(min=least) / world()).float()
    return max(least, sum(gathered(count))) / world()


def averaged(values: Tensor) -> Tensor:
    """The mean over processes, without a gradient."""
    values = values.detach()
    if world() > 1:
        values = values.clone()
        distributed.all_reduce(values)
        values /= world()
    return values


def gathered(value: Any) -> list[Any]:
    """A value of every process, by rank."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    distributed.all_gather_object(values, value)
    return values


def whole_batch(shape: Iterable[int]) -> tuple[int, ...]:
    """The shape of the whole batch's tensor, of that of this process's part [B, ...]."""
    first, *rest = shape
    return first * world(), *rest


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the mean gradients; weights that no process used keep none."""
    if world() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    used = torch.tensor([p.grad is not None for p in trained], dtype=torch.int32)
    used = used.to(trained[0].device)
    distributed.all_reduce(used)
    waiting = []
    for parameter, count in zip(trained, used.tolist(), strict=True):
        if count:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            waiting.append(distributed.all_reduce(parameter.grad, async_op=True))
    for work in waiting:
        work.wait()
    for parameter in trained:
        if parameter.grad is not None:
            parameter.grad /= world()


def check_device(device: torch.device) -> None:
    """Raise ConfigError where processes of a shared training would meet on one GPU."""
    if world() == 1 or device.type != "cuda":
        return
    if device.index is not None:
        raise ConfigError(
            f"device {str(device)!r} is one GPU for {world()} processes",
            remedy="Use --device cuda, which gives each process its own.",
        )
    gpus = torch.cuda.device_count()
    if processes_here() > gpus:
        raise ConfigError(
            f"{processes_here()} processes on this machine and {gpus} GPUs",
            remedy=f"Start {gpus} processes (torchrun --nproc-per-node {gpus}).",
        )


def begin_together(model: nn.Module) -> None:
    """Give every process the weights and buffers of rank 0."""
    if world() > 1:
        for value in model.state_dict().values():
            distributed.broadcast(value, src=0)


def barrier() -> None:
    """Wait for the other processes."""
    if world() > 1:
        gathered(None)


def see_whole_batches(model: nn.Module) -> None:
    """Let norms and dropout of a model act as in one process; nothing else of it changes.

    Exact classes are asked for: a batch norm whose work a convolution does is to stay as it is.
    """
    if world() == 1:
        return
    module: Any
    for module in model.modules():
        of = type(module)
        if of in (nn.BatchNorm1d, nn.BatchNorm2d):
            module.__class__ = SharedBatchNorm
            module.process_group = None
        elif of is nn.Dropout and module.p > 0:
            module.__class__ = SharedDropout
        elif of.__name__.endswith(("DropPath", "StochasticDepth")):
            module.__class__ = type(f"Shared{of.__name__}", (_SharedDropPath, of), {})


class _Sum(torch.autograd.Function):
    """The sum over processes; the gradient is that of all processes' losses."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        distributed.all_reduce(total)
        return total


class SharedBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm, on CPUs too, which that one refuses; a batch norm in one process."""

    def forward(self, input: Tensor) -> Tensor:
        if world() == 1 or not self.training:
            return nn.modules.batchnorm._BatchNorm.forward(self, input)
        if input.is_cuda:
            return super().forward(input)
        dims = [d for d in range(input.dim()) if d != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        x = input.float()
        count = x.numel() / x.shape[1] * world()
        mean = _Sum.apply(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


class SharedDropout(nn.Dropout):
    """Dropout that draws for the whole batch; images come first in what it is given."""

    def forward(self, input: Tensor) -> Tensor:
        if world() == 1 or not self.training:
            return super().forward(input)
        return input * _own_mask(super().forward, input, input.shape)


class _SharedDropPath(nn.Module):
    """The same for stochastic depth, which draws one number per image."""

    def forward(self, input: Tensor) -> Tensor:
        if world() == 1 or not self.training:
            return super().forward(input)
        shape = (len(input), *[1] * (input.dim() - 1))
        return input * _own_mask(super().forward, input, shape)


def _own_mask(drop: Any, like: Tensor, shape: Iterable[int]) -> Tensor:
    mask = drop(like.new_ones(whole_batch(shape)))
    return mask[own_part(len(mask))]
