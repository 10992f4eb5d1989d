"""The decode head of ECENet: FR, ECE and SAU over the stages, fused to logits (figure 3 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.model.class_extraction import ClassExtraction
from trainer.model.feature_reconstruction import FeatureReconstruction, diverse_peaks
from trainer.model.layers import conv_bn
from trainer.model.semantics_attention import EmbeddingUpdater, SemanticsAttention

NUM_STAGES = 4


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What training needs of the head.

    Attributes:
        logits: (B, K, H/4, W/4).
        auxiliary_masks: Logits of the class masks of all stages but the finest, summed, (B, K, H/4, W/4).
        diverse_peaks: Per stage (B, h·w), see ``feature_reconstruction.diverse_peaks``.
        diverse_channels: Per stage, how many channels the peaks were taken over.
    """

    logits: Tensor
    auxiliary_masks: Tensor
    diverse_peaks: tuple[Tensor, ...]
    diverse_channels: tuple[int, ...]


class GhostUpsample(nn.Module):
    """Doubles the size of a feature (B, C, H, W): half of the sub-pixels by a 1x1, half by a depthwise 3x3 of those."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.primary = conv_bn(channels, 2 * channels, 1)
        self.cheap = conv_bn(2 * channels, 2 * channels, 3, groups=2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        primary = torch.relu(self.primary(x))
        return F.pixel_shuffle(torch.cat([primary, torch.relu(self.cheap(primary))], 1), 2)


class DecodeHead(nn.Module):
    """Four stage features to class logits at stride 4.

    Args:
        in_channels: Channels of the stage features, stride 4, 8, 16, 32.
        num_classes: K.
        channels: Width C of the head, a multiple of ``num_heads``.
        num_heads: Heads of the SAU and groups of the first masks' convolution.
        dropout: Share of the fused channels that training drops before the classifier.
    """

    def __init__(
        self, *, in_channels: Sequence[int], num_classes: int, channels: int, num_heads: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.feature_reconstruction = nn.ModuleList(FeatureReconstruction(c) for c in in_channels)
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1, bias=False) for c in in_channels)
        self.initial_masks = nn.Sequential(
            nn.Conv2d(channels, channels, 1, groups=num_heads, bias=False),
            nn.Conv2d(channels, num_classes, 1, bias=False),
        )
        self.class_extraction = nn.ModuleList(ClassExtraction(num_classes, channels) for _ in range(NUM_STAGES))
        self.semantics_attention = nn.ModuleList(SemanticsAttention(channels, num_heads) for _ in range(NUM_STAGES - 1))
        self.updater = nn.ModuleList(EmbeddingUpdater(channels) for _ in range(NUM_STAGES - 1))
        self.upsample = nn.ModuleList(
            nn.Sequential(*(GhostUpsample(channels) for _ in range(steps))) for steps in range(1, NUM_STAGES)
        )
        self.fuse = conv_bn(NUM_STAGES * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.class_presence = nn.Linear(channels, num_classes)

    def forward(self, stage_features: Sequence[Tensor]) -> Tensor | HeadOutput:
        """Segment four stage features (B, C_i, H_i, W_i).

        Returns:
            Logits (B, K, H_0, W_0) in eval mode, a ``HeadOutput`` in training.
        """
        return self.forward_auxiliary(stage_features) if self.training else self._decode(stage_features)[0]

    def forward_auxiliary(self, stage_features: Sequence[Tensor]) -> HeadOutput:
        """Logits with the terms of the auxiliary losses, in either mode."""
        logits, auxiliary, diverse = self._decode(stage_features)
        peaks, channels = tuple(map(diverse_peaks, diverse)), tuple(branch.shape[1] for branch in diverse)
        return HeadOutput(logits, auxiliary, peaks, channels)

    def _decode(self, stage_features: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Logits and auxiliary masks, and the diverse branch of each stage."""
        rebuilt = [module(x) for module, x in zip(self.feature_reconstruction, stage_features, strict=True)]
        laterals = [module(x) for module, (x, _) in zip(self.laterals, rebuilt, strict=True)]
        features, masks, classes = self._attend(laterals)
        size = features[0].shape[2:]
        auxiliary = sum((_resize(mask, size) for mask in masks[1:]), torch.zeros_like(masks[0]))
        logits = self.classifier(self.dropout(self._aggregate(features)))
        logits = logits + self._presence(classes)[:, :, None, None] * torch.sigmoid(auxiliary + masks[0])
        return logits, auxiliary, [diverse for _, diverse in rebuilt]

    def _presence(self, classes: Tensor) -> Tensor:
        """How much each class embedding speaks for its own class: (B, K, C) to (B, K), 0..1."""
        shares: Tensor = self.class_presence(classes).softmax(-1)
        return (shares * torch.eye(shares.shape[1]).to(shares)).sum(-1)  # the diagonal, in two nodes of ONNX

    def _attend(self, laterals: list[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """From the coarsest stage to the finest: features and masks per stage, and the last class embeddings."""
        masks: list[Tensor] = [self.initial_masks(laterals[-1])]
        classes: Tensor = self.class_extraction[-1](masks[0])
        features = [laterals[-1]]
        for stage in reversed(range(NUM_STAGES - 1)):
            attended, mask = self.semantics_attention[stage](laterals[stage], classes)
            classes = self.updater[stage](self.class_extraction[stage](mask), classes)
            features.insert(0, attended)
            masks.insert(0, mask)
        return features, masks, classes

    def _aggregate(self, features: list[Tensor]) -> Tensor:
        size = features[0].shape[2:]
        upsampled = [_resize(module(x), size) for module, x in zip(self.upsample, features[1:], strict=True)]
        return torch.relu(self.fuse(torch.cat([features[0], *upsampled], 1)))


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
