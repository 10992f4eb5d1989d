"""Changes to the training of ECENet that are not in the trainer; the network of inference stays the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trainer.model.decode_head import HeadOutput
from trainer.model.ecenet import ECENet

Change = Callable[[ECENet], ECENet]


def with_key_scale(scale: float) -> Change:
    """Let the keys of every SAU start ``scale`` times as large, so that its attention starts further from uniform."""

    @torch.no_grad()
    def change(model: ECENet) -> ECENet:
        for attention in model.decode_head.semantics_attention:
            weight: Tensor = attention.get_parameter("key_value.weight")
            weight[: len(weight) // 2] *= scale  # the keys come before the values
        return model

    return change


def without_dropout(model: ECENet) -> ECENet:
    """Drop no channel before the classifier."""
    model.decode_head.dropout.p = 0.0
    return model


def with_norm_momentum(momentum: float) -> Change:
    """Let the statistics of the head's batch norms follow a batch by this share, 0..1; PyTorch's is 0.1."""

    def change(model: ECENet) -> ECENet:
        for module in model.decode_head.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum
        return model

    return change


def with_finest_mask(model: ECENet) -> ECENet:
    """Supervise the sum of all masks, which the logits use, in place of the sum without the finest stage's."""
    model.decode_head.register_forward_hook(_FinestMask(model))
    return model


class _FinestMask:
    """Adds the finest mask of a pass to its auxiliary ones; a copy of the model gets its own copy."""

    def __init__(self, model: ECENet) -> None:
        self._mask: Tensor | None = None
        model.decode_head.semantics_attention[0].register_forward_hook(self.keep)

    def keep(self, _module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        self._mask = output[1]

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor | HeadOutput) -> Tensor | HeadOutput:
        mask, self._mask = self._mask, None
        if not isinstance(output, HeadOutput) or mask is None:
            return output
        return replace(output, auxiliary_masks=output.auxiliary_masks + mask)
