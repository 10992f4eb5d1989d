"""Batch norm over the images of all ranks. PyTorch's own does not run on CPUs."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist

from trainer.model.timm_loader import import_timm
from trainer.precision import at_least_float


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Let every batch norm use the statistics of all ranks; gives the model, changed in place on a CPU."""
    if device.type == "cuda":
        return cast(nn.Module, import_timm().layers.convert_sync_batchnorm(model))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = _synchronised_class(type(module))
    return model


class _SynchronisedForward:
    """Mixed into a batch norm: in training it sees its input normalised by the statistics of all ranks.

    What the module does after its normalisation (timm's has an activation) stays unchanged: the affine part runs with a
    mean of 0 and a variance of 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        norm = cast(Any, self)
        if not norm.training:
            return cast(Tensor, super().forward(x))  # type: ignore[misc]
        mean, var, count = _statistics(x)
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean.detach(), norm.momentum)
            norm.running_var.lerp_(var.detach() * count / (count - 1), norm.momentum)
        scale = norm.weight * torch.rsqrt(var + norm.eps)
        shift = norm.bias - mean * scale
        y = torch.addcmul(shift[:, None, None], at_least_float(x), scale[:, None, None]).to(x.dtype)
        return cast(Tensor, norm.act(norm.drop(y))) if hasattr(norm, "act") else y


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and biased variance per channel of (B, C, H, W) over all ranks, and the values per channel."""
    own = at_least_float(x)
    count = own.new_tensor([own.numel() / own.shape[1]])
    sums = _TotalOverRanks.apply(  # type: ignore[no-untyped-call]
        torch.cat([own.sum((0, 2, 3)), own.square().sum((0, 2, 3)), count])
    )
    total = float(sums[-1].detach())
    mean, square = (sums[:-1] / total).chunk(2)
    return mean, (square - mean.square()).clamp(min=0), total


class _TotalOverRanks(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def _synchronised_class(kind: type[nn.BatchNorm2d]) -> type[nn.BatchNorm2d]:
    return type(f"Synchronised{kind.__name__}", (_SynchronisedForward, kind), {})
