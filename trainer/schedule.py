"""Parameter groups, learning rate, and the moving average of the weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import nn

from trainer.config import ConfigError
from trainer.model.backbone import SwinBackbone
from trainer.model.ecenet import ECENet

M = TypeVar("M", bound=nn.Module)


CLASSIFIER = "decode_head.classifier."
# The classifier's rate per backbone's rate, times the width of the head: 48 at the width 64 where it was measured.
_CLASSIFIER_SPEED = 48 * 64


def classifier_multiple(width: int) -> float:
    """The default of ``schedule.classifier_lr_multiple`` for a width of the head.

    AdamW moves each weight by about its rate, so a logit of C channels moves by rate times C. At the head's rate the
    logits are what training waits for: after 150 steps of seed 0 the head at 12 times the backbone's rate has 40.5, at
    8 times with the classifier at 48 times 42.6. A wider head gets the same speed of its logits at a lower rate.
    """
    return _CLASSIFIER_SPEED / width


def parameter_groups(
    model: ECENet,
    *,
    lr: float,
    head_lr_multiple: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    classifier_lr_multiple: float | None = None,
) -> list[dict[str, object]]:
    """AdamW's groups: the head learns faster, its classifier fastest, earlier transformer blocks more slowly.

    Norms, biases (one axis or none) and tables of relative positions do not decay, as in Swin's recipe.

    Args:
        model: The network.
        lr: Rate of the backbone's last block.
        head_lr_multiple: The head's rate per ``lr``.
        weight_decay: Decay of the rest.
        layer_decay: Rate of a block per rate of the next one.
        classifier_lr_multiple: The rate of the head's last layer per ``lr``; ``classifier_multiple`` if None.

    Raises:
        ConfigError: Layer decay is asked of a convolutional backbone.
    """
    if classifier_lr_multiple is None:
        classifier_lr_multiple = classifier_multiple(model.config.channels)
    if layer_decay != 1 and not isinstance(model.backbone, SwinBackbone):
        raise ConfigError(f"schedule.layer_decay is {layer_decay}, expected 1: the backbone is not a transformer")
    depth = sum(model.config.depths)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = transformer_layer(name, model.config.depths)
        in_head = classifier_lr_multiple if name.startswith(CLASSIFIER) else head_lr_multiple
        rate = lr * (in_head if layer is None else layer_decay ** (depth + 1 - layer))
        decays = parameter.ndim > 1 and not name.endswith("relative_position_bias_table")
        groups.setdefault((rate, weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def build_optimizer(
    model: ECENet,
    *,
    lr: float,
    head_lr_multiple: float,
    weight_decay: float,
    total_steps: int,
    warmup_steps: int,
    power: float,
    layer_decay: float = 1.0,
    classifier_lr_multiple: float | None = None,
    fused: bool = False,
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over ``parameter_groups``, and the scheduler that gives its rates ``lr_factor``.

    With ``fused`` a few kernels take the step of all weights, and leave it out themselves where an fp16 gradient
    overflowed; otherwise the host waits for the gradient to see that.

    Raises:
        ConfigError: Layer decay is asked of a convolutional backbone.
    """
    groups = parameter_groups(
        model,
        lr=lr,
        head_lr_multiple=head_lr_multiple,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        classifier_lr_multiple=classifier_lr_multiple,
    )
    optimizer = torch.optim.AdamW(groups, fused=fused)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, total_steps=total_steps, warmup_steps=warmup_steps, power=power)
    )
    return optimizer, scheduler


def transformer_layer(name: str, depths: Sequence[int]) -> int | None:
    """Depth of a parameter in its backbone, for layer-wise rates.

    0 is the patch embedding, 1..sum(depths) are the blocks, and sum(depths) + 1 is the rest of the backbone. None for
    the head's parameters.
    """
    if not name.startswith("backbone."):
        return None
    if ".patch_embed." in name:
        return 0
    place = re.search(r"\.layers_(\d+)\.(?:blocks\.(\d+)\.)?", name)
    if place is None:
        return sum(depths) + 1
    return 1 + sum(depths[: int(place[1])]) + int(place[2] or 0)


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
