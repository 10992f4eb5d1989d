"""Floating-point operations of a network, counted by ``torch.utils.flop_counter``: a multiply-add counts as two."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def count_flops(model: nn.Module, size: tuple[int, int]) -> int:
    """Operations of a forward pass in eval mode on one image of ``size`` (height, width).

    Convolutions and matrix products count, element-wise operations do not. A copy on the ``meta`` device is counted, so
    that nothing is computed; an existing model takes no memory at all. Attention runs as its two products:
    the counter knows no formula for the CPU's fused operator and would leave it out.
    """
    network = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, *size, device="meta"))
    return int(counter.get_total_flops())
