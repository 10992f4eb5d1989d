"""Changes to the training of ECENet that are not in the trainer; the network of inference stays the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    model.decode_head.register_forward_hook(_OtherMasks(model, lambda masks: torch.stack(masks).sum(0)))
    return model


def with_deep_masks(model: ECENet) -> ECENet:
    """Supervise the sum of all masks after each stage too, from the coarsest to the finest.

    The four sums alternate by row, so that the loss compares each of them with the labels.
    """
    model.decode_head.register_forward_hook(_OtherMasks(model, _sums_by_row))
    return model


def _sums_by_row(masks: list[Tensor]) -> Tensor:
    """The sums of the first masks, of the first two, and so on: four of (B, K, h, w) to (B, K, 4h, w)."""
    return torch.stack(masks).cumsum(0).movedim(0, 3).flatten(2, 3)


class _OtherMasks:
    """Computes the auxiliary masks of a pass anew; a copy of the model gets its own copy."""

    def __init__(self, model: ECENet, combine: Callable[[list[Tensor]], Tensor]) -> None:
        """``combine`` gets the four masks at the finest size, the coarsest stage's first."""
        self._masks: list[Tensor] = []
        self._combine = combine
        model.decode_head.initial_masks.register_forward_hook(self.keep)
        for attention in model.decode_head.semantics_attention:
            attention.register_forward_hook(self.keep)

    def keep(self, _module: nn.Module, _inputs: Any, output: Tensor | tuple[Tensor, Tensor]) -> None:
        self._masks.append(output if isinstance(output, Tensor) else output[1])

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor | HeadOutput) -> Tensor | HeadOutput:
        masks, self._masks = self._masks, []
        if not isinstance(output, HeadOutput):
            return output
        size = masks[-1].shape[2:]
        resized = [functional.interpolate(mask, size, mode="bilinear", align_corners=False) for mask in masks]
        return replace(output, auxiliary_masks=self._combine(resized))
