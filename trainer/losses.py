"""The criterion of ECENet: cross entropy, auxiliary mask, diversity and presence loss; and the overlap of the logits.

The forms follow MaskFormer and SegViT, the weights the released configuration. The release has no overlap and no
presence loss, and its diversity loss depends on the scale of the features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.config import SCALE_FREE, LossWeights
from trainer.datasets import IGNORE_INDEX, SegmentationDataset
from trainer.model.decode_head import HeadOutput
from trainer.precision import at_least_float

Pairs = tuple[Tensor, Tensor]
"""Indices (N,) int64 of the images and of the classes of (image, class) pairs."""


class Losses(NamedTuple):
    """The weighted terms, scalars; their sum is what training minimises."""

    cross_entropy: Tensor
    overlap: Tensor
    auxiliary: Tensor
    diversity: Tensor
    presence: Tensor


def criterion(
    output: HeadOutput,
    labels: Tensor,
    weights: LossWeights,
    class_weights: Tensor | None = None,
    mean_over_ranks: Callable[[Tensor], Tensor] = lambda value: value,
    *,
    host_labels: Tensor | None = None,
) -> Losses:
    """All terms for labels (B, H, W) int64 with ``IGNORE_INDEX`` for void; a term of weight 0 is 0 and not computed.

    Each term is a sum over a count: the weights of valid pixels, the (image, class) pairs, the images.
    With several processes ``mean_over_ranks`` averages the counts, so that the mean of all ranks' losses, and of their
    gradients, is that of one process with all images.

    The auxiliary masks have stride 4 and are compared there, with every fourth label; they hold no finer detail.

    ``host_labels`` are the labels on the CPU, where the loader had them: with them nothing here waits for a GPU.
    """
    host = labels.cpu() if host_labels is None else host_labels
    pairs = present_pairs(host, output.logits.shape[1], labels.device)
    zero = output.logits.new_zeros(())
    logits = _enlarged(output.logits, labels) if weights.cross_entropy or weights.overlap else output.logits
    entropy, pixels = _cross_entropy(logits, labels, class_weights) if weights.cross_entropy else (zero, zero)
    apart, objects = overlap_loss(logits, labels, pairs) if weights.overlap else (zero, zero)
    focal, dice, masks = _auxiliary(output.auxiliary_masks, labels, host) if weights.auxiliary else (zero, zero, zero)
    unclear, classes = presence_loss(output.presence_logits, labels, pairs) if weights.presence else (zero, zero)
    counts = torch.stack([pixels, objects, masks, classes]).detach()
    pixels, objects, masks, classes = mean_over_ranks(counts).clamp(min=1e-6).unbind()
    return Losses(
        weights.cross_entropy * entropy / pixels,
        weights.overlap * apart / objects,
        weights.auxiliary * (weights.focal * focal + weights.dice * dice) / masks,
        weights.diversity * _diversity(output, weights.diversity_form) if weights.diversity else zero,
        weights.presence * unclear / classes,
    )


def _enlarged(logits: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(at_least_float(logits), size=labels.shape[1:], mode="bilinear", align_corners=False)


def _cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum of the weighted cross entropy, and of the weights, over the valid pixels."""
    entropy = F.cross_entropy(logits, labels, weight=class_weights, ignore_index=IGNORE_INDEX, reduction="sum")
    if class_weights is None:
        return entropy, (labels != IGNORE_INDEX).sum().to(entropy.dtype)
    padded = F.pad(class_weights, (0, IGNORE_INDEX + 1 - len(class_weights)))
    return entropy, padded[labels].sum()


def overlap_loss(logits: Tensor, labels: Tensor, pairs: Pairs | None = None) -> tuple[Tensor, Tensor]:
    """The dice loss of the softmax of the logits, for the classes that are present in their image.

    A class counts the same whether it has ten pixels or half of the image, as it does in mIoU.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64; void pixels do not count.
        pairs: The (image, class) pairs that are present in the labels; looked for if None.

    Returns:
        The loss, summed over the pairs, and how many there are.
    """
    pairs = pairs or present_pairs(labels.cpu(), logits.shape[1], labels.device)
    targets, valid = _one_hot(labels, logits.shape[1])
    probability = logits.softmax(1).flatten(2) * valid[:, None]
    dice = _dice(probability, targets.to(logits.dtype))[pairs]
    return dice.sum(), _number_of(pairs, logits)


def _one_hot(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """One-hot labels (B, K, N), and the pixels that are not void, (B, N); both bool."""
    pixels = labels.flatten(1)
    return pixels[:, None] == torch.arange(num_classes, device=labels.device)[:, None], pixels != IGNORE_INDEX


def _dice(probability: Tensor, target: Tensor) -> Tensor:
    """1 where two sets of pixels, on the last axis, have nothing in common, 0 where they agree."""
    overlap = 2 * (probability * target).sum(-1)
    return 1 - (overlap + 1) / (probability.sum(-1) + target.sum(-1) + 1)


def _auxiliary(masks: Tensor, labels: Tensor, host_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    coarse, host = (
        F.interpolate(each[:, None].float(), size=masks.shape[2:], mode="nearest-exact")[:, 0].long()
        for each in (labels, host_labels)
    )
    return mask_loss(at_least_float(masks), coarse, present_pairs(host, masks.shape[1], labels.device))


def _diversity(output: HeadOutput, form: str) -> Tensor:
    peaks = output.scale_free_peaks if form == SCALE_FREE else output.diverse_peaks
    stages = zip(peaks, output.diverse, strict=True)
    return torch.stack([diversity_loss(stage, diverse.shape[1]) for stage, diverse in stages]).sum()


def presence_loss(logits: Tensor, labels: Tensor, pairs: Pairs | None = None) -> tuple[Tensor, Tensor]:
    """The cross entropy of a class embedding against its own class, for the classes that are present in their image.

    The head weighs the mask of each class by ``p``, how much its embedding speaks for it. Nothing else supervises
    ``p``: without this loss it falls to about 0.01 for nine of CamVid's eleven classes within 100 steps, and their
    masks hardly reach the logits. After 150 steps of seed 0 with it 43.3, without 42.6.

    Args:
        logits: ``HeadOutput.presence_logits``, (B, K, K).
        labels: (B, H, W) int64 with ``IGNORE_INDEX`` for void.
        pairs: The (image, class) pairs that are present in the labels; looked for if None.

    Returns:
        The loss, summed over the pairs, and how many there are.
    """
    pairs = pairs or present_pairs(labels.cpu(), logits.shape[1], labels.device)
    entropy = F.cross_entropy(at_least_float(logits[pairs]), pairs[1], reduction="sum")
    return entropy, _number_of(pairs, entropy)


def present_pairs(host_labels: Tensor, num_classes: int, device: torch.device) -> Pairs:
    """The (image, class) pairs that are present in labels (B, H, W) of integers on the CPU, in order, on ``device``.

    Their number sets the size of the selected tensors; counting them on a GPU would make the host wait.
    """
    pairs = present_classes(host_labels.long(), num_classes).numpy().nonzero()
    images, classes = (torch.from_numpy(indices) for indices in pairs)
    if device.type == "cuda":
        images, classes = images.pin_memory(), classes.pin_memory()
    return images.to(device, non_blocking=True), classes.to(device, non_blocking=True)


def _number_of(pairs: Pairs, like: Tensor) -> Tensor:
    return like.new_full((), len(pairs[0]))


def present_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Classes with at least one pixel in labels (B, H, W) int64: (B, K) bool."""
    seen = labels.new_zeros(len(labels), IGNORE_INDEX + 1, dtype=torch.bool)
    return seen.scatter_(1, labels.flatten(1), True)[:, :num_classes]


def mask_loss(
    masks: Tensor, labels: Tensor, pairs: Pairs | None = None, alpha: float = 0.25, gamma: float = 2.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Focal and dice terms of the masks of the classes that are present in their image.

    Args:
        masks: Mask logits, (B, K, H, W).
        labels: (B, H, W) int64; void pixels count in neither term.
        pairs: The (image, class) pairs that are present in the labels; looked for if None.
        alpha: Weight of the positive pixels in the focal term.
        gamma: Its focusing power.

    Returns:
        Both terms, summed over the pairs, and how many there are.
    """
    pairs = pairs or present_pairs(labels.cpu(), masks.shape[1], labels.device)
    targets, valid = _one_hot(labels, masks.shape[1])
    logits, target = masks.flatten(2)[pairs], targets[pairs].to(masks.dtype)  # (pairs, N)
    keep = valid[pairs[0]].to(masks.dtype)
    probability = logits.sigmoid() * keep
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = torch.where(target > 0, 1 - probability, probability)
    focal = torch.where(target > 0, alpha, 1 - alpha) * wrong.pow(gamma) * entropy * keep
    focal = focal.sum(1) / keep.sum(1).clamp(min=1)
    return focal.sum(), _dice(probability, target).sum(), _number_of(pairs, masks)


def diversity_loss(peaks: Tensor, channels: int) -> Tensor:
    """``1 - sum(peaks) / channels``: 0 where every channel of a stage has its own peak, near 1 where all agree."""
    return 1 - peaks.sum(1).mean() / channels


def balanced_class_weights(pixels: Tensor) -> Tensor:
    """Weights 1 / ln(1.1 + share), scaled to a mean of 1, from pixel counts per class (K,)."""
    weights = 1 / torch.log(1.1 + pixels / pixels.sum())
    return weights / weights.mean()


def class_pixels(dataset: SegmentationDataset) -> Tensor:
    """Number of pixels of each class in the labels of a dataset, (K,) float32."""
    counts = np.zeros(256, np.int64)
    for index in range(len(dataset)):
        counts += np.bincount(dataset.labels(index).ravel(), minlength=256)
    return torch.from_numpy(counts[: len(dataset.classes)]).float()
