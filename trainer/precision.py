"""Mixed precision: which type pays where, and the operations excluded on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

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


def at_least_float(x: Tensor) -> Tensor:
    """Half precision as float32, wider types unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def choose_precision(precision: str, device: torch.device) -> str:
    """``fp32``, ``bf16`` or ``fp16``; ``auto`` gives bf16 where the hardware multiplies it, else fp32.

    A CPU without such instructions converts every operand: a step took 43 s in bf16 and 6.6 s in float32 on a Zen 3.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if {"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags() else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which a network runs in a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The instruction sets that the kernel names; none where it names none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}
