"""Parameter groups, learning rate, and the moving average of the weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

from trainer.model.ecenet import ECENet

M = TypeVar("M", bound=nn.Module)


def parameter_groups(
    model: ECENet, *, lr: float, head_lr_multiple: float, weight_decay: float
) -> list[dict[str, object]]:
    """AdamW's groups: the head learns faster, and norms and biases (one axis or none) do not decay."""
    groups = []
    for module, rate in ((model.backbone, lr), (model.decode_head, lr * head_lr_multiple)):
        parameters = [p for p in module.parameters() if p.requires_grad]
        groups.append({"params": [p for p in parameters if p.ndim > 1], "lr": rate, "weight_decay": weight_decay})
        groups.append({"params": [p for p in parameters if p.ndim <= 1], "lr": rate, "weight_decay": 0.0})
    return groups


def lr_factor(step: int, *, total_steps: int, warmup_steps: int, power: float) -> float:
    """Share of the base rate at a step, 0..1: linear warm-up, then ``(1 - progress) ** power``."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return float((1 - min(progress, 1.0)) ** power)


class MovingAverage(Generic[M]):
    """Exponential moving average of a model's weights and statistics.

    The first steps count more (``(1 + t) / (10 + t)`` below ``decay``), so that a short run is not held by its start.
    """

    def __init__(self, model: M, decay: float) -> None:
        self.model: M = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: M, step: int) -> None:
        """Move towards the weights of ``model`` after step ``step``, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)
