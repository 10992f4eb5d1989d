"""The criterion of ECENet: cross entropy, auxiliary mask loss and diversity loss; and the overlap of the logits.

The forms follow MaskFormer and SegViT, the weights the released configuration, where the overlap has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.config import LossWeights
from trainer.datasets import IGNORE_INDEX, SegmentationDataset
from trainer.model.decode_head import HeadOutput
from trainer.precision import at_least_float


class Losses(NamedTuple):
    """The weighted terms, scalars; their sum is what training minimises."""

    cross_entropy: Tensor
    overlap: Tensor
    auxiliary: Tensor
    diversity: Tensor


def criterion(
    output: HeadOutput,
    labels: Tensor,
    weights: LossWeights,
    class_weights: Tensor | None = None,
    mean_over_ranks: Callable[[Tensor], Tensor] = lambda value: value,
) -> Losses:
    """All terms for labels (B, H, W) int64 with ``IGNORE_INDEX`` for void; a term of weight 0 is 0 and not computed.

    Each term is a sum over a count: the weights of valid pixels, the (image, class) pairs at either size, the images.
    With several processes ``mean_over_ranks`` averages the counts, so that the mean of all ranks' losses, and of their
    gradients, is that of one process with all images.

    The auxiliary masks stand at stride 4 and are compared there, with every fourth label; they hold no finer detail.
    """
    zero = output.logits.new_zeros(())
    logits = _enlarged(output.logits, labels) if weights.cross_entropy or weights.overlap else output.logits
    entropy, pixels = _cross_entropy(logits, labels, class_weights) if weights.cross_entropy else (zero, zero)
    apart, objects = overlap_loss(logits, labels) if weights.overlap else (zero, zero)
    focal, dice, pairs = _auxiliary(output.auxiliary_masks, labels) if weights.auxiliary else (zero, zero, zero)
    counts = torch.stack([pixels, objects, pairs]).detach()
    pixels, objects, pairs = mean_over_ranks(counts).clamp(min=1e-6).unbind()
    return Losses(
        weights.cross_entropy * entropy / pixels,
        weights.overlap * apart / objects,
        weights.auxiliary * (weights.focal * focal + weights.dice * dice) / pairs,
        weights.diversity * _diversity(output) if weights.diversity else zero,
    )


def _enlarged(logits: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(at_least_float(logits), size=labels.shape[1:], mode="bilinear", align_corners=False)


def _cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum of the weighted cross entropy, and of the weights, over the valid pixels."""
    entropy = F.cross_entropy(logits, labels, weight=class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
    valid = labels[labels != IGNORE_INDEX]
    total = class_weights[valid].sum() if class_weights is not None else entropy.new_tensor(valid.numel())
    return entropy, total


def overlap_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The dice loss of the softmax of the logits, for the classes that are present in their image.

    A class counts the same whether it has ten pixels or half of the image, as it does in mIoU.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64; void pixels do not count.

    Returns:
        The loss, summed over the (image, class) pairs that are present, and how many pairs there are.
    """
    targets, valid = _one_hot(labels, logits.shape[1])
    probability = logits.softmax(1).flatten(2) * valid[:, None]
    present = targets.any(2)
    dice = _dice(probability, targets.to(logits.dtype))[present]
    return dice.sum(), present.sum().to(logits.dtype)


def _one_hot(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Which pixels are of which class, (B, K, N), and which are not void, (B, N); both bool."""
    pixels = labels.flatten(1)
    return pixels[:, None] == torch.arange(num_classes, device=labels.device)[:, None], pixels != IGNORE_INDEX


def _dice(probability: Tensor, target: Tensor) -> Tensor:
    """1 where two sets of pixels, on the last axis, have nothing in common, 0 where they agree."""
    overlap = 2 * (probability * target).sum(-1)
    return 1 - (overlap + 1) / (probability.sum(-1) + target.sum(-1) + 1)


def _auxiliary(masks: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    coarse = F.interpolate(labels[:, None].float(), size=masks.shape[2:], mode="nearest-exact")[:, 0].long()
    return mask_loss(at_least_float(masks), coarse)


def _diversity(output: HeadOutput) -> Tensor:
    stages = zip(output.diverse_peaks, output.diverse_channels, strict=True)
    return torch.stack([diversity_loss(peaks, channels) for peaks, channels in stages]).sum()


def mask_loss(masks: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Focal and dice terms of the masks of the classes that are present in their image.

    Args:
        masks: Mask logits, (B, K, H, W).
        labels: (B, H, W) int64; void pixels count in neither term.
        alpha: Weight of the positive pixels in the focal term.
        gamma: Its focusing power.

    Returns:
        Both terms, summed over the (image, class) pairs that are present, and how many pairs there are.
    """
    targets, valid = _one_hot(labels, masks.shape[1])
    present = targets.any(2)
    logits, target = masks.flatten(2)[present], targets[present].to(masks.dtype)  # (pairs, N)
    keep = valid[present.nonzero()[:, 0]].to(masks.dtype)
    probability = logits.sigmoid() * keep
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = torch.where(target > 0, 1 - probability, probability)
    focal = torch.where(target > 0, alpha, 1 - alpha) * wrong.pow(gamma) * entropy * keep
    focal = focal.sum(1) / keep.sum(1).clamp(min=1)
    return focal.sum(), _dice(probability, target).sum(), present.sum().to(masks.dtype)


def diversity_loss(peaks: Tensor, channels: int) -> Tensor:
    """``1 - sum(peaks) / channels``: 0 where every channel of a stage has a peak of its own, near 1 where all agree."""
    return 1 - peaks.sum(1).mean() / channels


def balanced_class_weights(pixels: Tensor) -> Tensor:
    """Weights 1 / ln(1.1 + share), scaled to a mean of 1, from pixel counts per class (K,)."""
    weights = 1 / torch.log(1.1 + pixels / pixels.sum())
    return weights / weights.mean()


def class_pixels(dataset: SegmentationDataset) -> Tensor:
    """How many pixels of each class the labels of a dataset hold, (K,) float32."""
    counts = np.zeros(256, np.int64)
    for index in range(len(dataset)):
        counts += np.bincount(dataset.labels(index).ravel(), minlength=256)
    return torch.from_numpy(counts[: len(dataset.classes)]).float()
