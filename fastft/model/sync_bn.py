"""Batch norm whose statistics are those of the batch of all processes.

By itself each process normalizes its share by the share's own mean and variance, so that the same
global batch trains another model on another number of processes. These layers join the shares'
statistics, however many images each holds, none included. Evaluation, frozen layers and a single
process are plain batch norm; a checkpoint does not show which of the two was used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pipelines.errors import UsageError

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
#: timm's batch norm that ends in an activation.
_WITH_ACTIVATION = ("BatchNormAct2d",)


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Let a model's batch norm take the statistics of all processes' shares.

    In place, so that whoever holds a layer, such as the list of those that are frozen, goes on
    holding it. Every process must then run every forward and backward pass, on an empty share, too.

    On a GPU it is torch's own, which waits for the device once in every layer.

    Args:
        model: on its device, before `DistributedDataParallel` takes it.

    Returns:
        The same model.

    Raises:
        UsageError: it has batch norm of a kind that is not known here.
    """
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    for layer in model.modules():
        if not isinstance(layer, _BatchNorm) or isinstance(layer, _SYNCHRONIZED):
            continue
        kind = type(layer)
        if kind in _PLAIN:
            # One class of batch norm has the very state of another.
            layer.__class__ = GpuSyncBatchNorm if on_gpu else SyncBatchNorm
        elif kind.__name__ in _WITH_ACTIVATION and kind.__module__.startswith("timm."):
            layer.__class__ = _GpuSyncThenAct if on_gpu else _SyncThenAct
        else:
            raise UsageError("--sync-bn", f"with {kind.__name__}", "batch norm of torch's", "")
        if on_gpu:
            layer.process_group = None  # type: ignore[assignment]  # of everyone
    return model


class GpuSyncBatchNorm(nn.SyncBatchNorm):
    """torch's, and an empty share may be of half precision."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalize [b, C, ...]."""
        if input.numel():
            return super().forward(input)
        # torch sends an empty share's statistics in its own precision, the others' in float32.
        return super().forward(input.float()).to(input.dtype)


class SyncBatchNorm(_BatchNorm):
    """The same of plain operations, which run on a CPU, where torch's refuses to."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalize [b, C] or [b, C, ...], b may be 0; the result has the same layout and dtype.

        Raises:
            ValueError: a single value per channel in all processes together.
        """
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        if not (self.training and several):
            return super().forward(input)
        mean, variance, count = _join(*_moments(input.detach()))
        if count <= 1:
            # As batch norm says it.
            raise ValueError(f"Expected more than 1 value per channel when training, got {count}")
        self._track(mean, variance * (count / (count - 1)))
        normalized: torch.Tensor = _Normalize.apply(
            input, self.weight, self.bias, mean, variance, count, self.eps
        )
        return normalized

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:  # [b, C] is the least
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Take float64[C] into the running statistics."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum
        if share is None:  # the mean of all batches
            share = 1 / int(self.num_batches_tracked)
        for kept, new in ((self.running_mean, mean), (self.running_var, variance)):
            kept.lerp_(new.to(kept.dtype), share)


def _moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean and summed squared deviations of [b, C, ...], float64[C], and of how many values.

    Source: Chan, Golub, LeVeque, "Algorithms for computing the sample variance", The American
    Statistician 37, 1983: the two-pass algorithm with its correction (1.7).
    """
    count = images.numel() // images.shape[1]
    if not count:
        zero = torch.zeros(images.shape[1], dtype=torch.float64, device=images.device)
        return zero, zero, 0
    values = _widen(images)
    about = values.mean(_sides(values))
    deviations = values - _across(about, values)
    # What rounding has left of the mean.
    rest = deviations.sum(_sides(values)).double() / count
    squares = deviations.square_().sum(_sides(values)).double() - count * rest.square()
    return about.double() + rest, squares, count


def _join(
    mean: torch.Tensor, squares: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean and biased variance of all processes' values, float64[C], and their number.

    Everyone adds in the order of ranks, so all have the same to the bit.

    Source: Chan, Golub, LeVeque, as above, (2.1) for any number of samples.
    """
    mine = torch.cat([mean, squares, mean.new_tensor([count])])
    everyones = mine.new_empty(distributed.get_world_size() * len(mine))
    distributed.all_gather_into_tensor(everyones, mine)
    rows = everyones.view(-1, len(mine))
    channels = len(mean)
    means, all_squares, counts = rows[:, :channels], rows[:, channels:-1], rows[:, -1:]
    total = counts.sum()
    joined = (counts * means).sum(0) / total
    spread = all_squares.sum(0) + (counts * (means - joined).square()).sum(0)
    return joined, spread / total, int(total)


class _ThenAct(nn.Module):
    """What timm's layers do behind the norm."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalize [b, C, H, W] and activate."""
        normalized: torch.Tensor = super().forward(input)
        activated: torch.Tensor = self.act(self.drop(normalized))
        return activated


class _SyncThenAct(_ThenAct, SyncBatchNorm):
    pass


class _GpuSyncThenAct(_ThenAct, GpuSyncBatchNorm):
    pass


#: Layers that are what they are to be.
_SYNCHRONIZED = (SyncBatchNorm, nn.SyncBatchNorm)


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, where x of all processes gave both.

    Source: Ioffe, Szegedy, "Batch Normalization", ICML 2015, section 3, for the gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        variance: torch.Tensor,
        count: int,
        eps: float,
    ) -> torch.Tensor:
        dtype = _widen(images[:0]).dtype
        mean, variance = mean.to(dtype), variance.to(dtype)
        ctx.save_for_backward(images, weight, mean, variance)
        ctx.count, ctx.eps = count, eps
        return functional.batch_norm(images, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, weight, mean, variance = ctx.saved_tensors
        grad, sides = _widen(grads[0]), _sides(images)
        normalized = functional.batch_norm(
            _widen(images), mean, variance, None, None, False, 0.0, ctx.eps
        )
        # A process's own: DistributedDataParallel adds them up with all other parameters'.
        grad_bias, grad_weight = grad.sum(sides), (grad * normalized).sum(sides)
        grad_images = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack((grad_bias, grad_weight)).double()
            distributed.all_reduce(sums)
            by_mean, by_scale = (sums / ctx.count).to(grad.dtype)
            scale = (variance + ctx.eps).rsqrt()
            if weight is not None:
                scale = scale * weight
            normalized = normalized * _across(by_scale, grad) + _across(by_mean, grad)
            grad_images = (grad - normalized).mul_(_across(scale, grad)).to(images.dtype)
        affine = (
            grad_weight if ctx.needs_input_grad[1] else None,
            grad_bias if ctx.needs_input_grad[2] else None,
        )
        return grad_images, *affine, None, None, None, None


def _widen(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision to float32, as batch norm computes; others as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _sides(images: torch.Tensor) -> list[int]:
    """All dimensions but the channels'."""
    return [0, *range(2, images.dim())]


def _across(channels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """[C] such that it goes with [b, C, ...]."""
    return channels.view(1, -1, *[1] * (images.dim() - 2))
