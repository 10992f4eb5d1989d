"""Mixed precision on CPUs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class _FloatForward:
    """Mixed into a convolution: leaves bf16 autocast and returns to it."""

    def forward(self, x: Tensor) -> Tensor:
        forward: Callable[[Tensor], Tensor] = super().forward  # type: ignore[misc]
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return forward(x)
        with torch.autocast("cpu", enabled=False):
            return forward(x.float()).to(torch.bfloat16)


def keep_depthwise_in_float(model: nn.Module) -> int:
    """Let the depthwise convolutions that bf16 would slow down on a CPU stay in float32, in place; gives how many.

    oneDNN has no fast bf16 backward for strided or 5x5 depthwise kernels: measured 192 ms against 40 in float32 for 144
    channels, 5x5, stride 2, at 8 x 96 x 128 on two cores with AVX-512.
    """
    slow = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels > 1
        and (max(module.kernel_size) > 3 or max(module.stride) > 1)
    ]
    for module in slow:
        module.__class__ = _float_class(type(module))
    return len(slow)


def _float_class(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    return type(f"Float{kind.__name__}", (_FloatForward, kind), {})
