"""The decode head of ECENet: FR, ECE and SAU over the stages, fused to logits (figure 3 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.model.class_extraction import ClassExtraction
from trainer.model.feature_reconstruction import FeatureReconstruction, diverse_peaks, scale_free
from trainer.model.layers import conv_bn
from trainer.model.semantics_attention import EmbeddingUpdater, SemanticsAttention

NUM_STAGES = 4


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """Output of the head in training: logits, and the terms of its losses.

    Attributes:
        logits: (B, K, H/4, W/4).
        auxiliary_masks: Logits of the class masks of all stages but the finest, summed, (B, K, H/4, W/4).
        diverse: Per stage the gated diverse half of FR, (B, C_i/2, h, w).
        presence_logits: Which class each class embedding speaks for, (B, K, K); row k is of the embedding of class k.
    """

    logits: Tensor
    auxiliary_masks: Tensor
    diverse: tuple[Tensor, ...]
    presence_logits: Tensor

    @property
    def diverse_peaks(self) -> tuple[Tensor, ...]:
        """Per stage (B, h·w), see ``feature_reconstruction.diverse_peaks``."""
        return tuple(map(diverse_peaks, self.diverse))

    @property
    def scale_free_peaks(self) -> tuple[Tensor, ...]:
        """The peaks of the diverse halves at one amplitude per channel."""
        return tuple(diverse_peaks(scale_free(diverse)) for diverse in self.diverse)


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
        return self.forward_auxiliary(stage_features) if self.training else self._decode(stage_features).logits

    def forward_auxiliary(self, stage_features: Sequence[Tensor]) -> HeadOutput:
        """Logits with the terms of the auxiliary losses, in either mode."""
        return self._decode(stage_features)

    def _decode(self, stage_features: Sequence[Tensor]) -> HeadOutput:
        rebuilt = [module(x) for module, x in zip(self.feature_reconstruction, stage_features, strict=True)]
        laterals = [module(x) for module, (x, _) in zip(self.laterals, rebuilt, strict=True)]
        features, masks, classes = self._attend(laterals)
        size = features[0].shape[2:]
        auxiliary = sum((_resize(mask, size) for mask in masks[1:]), torch.zeros_like(masks[0]))
        logits = self.classifier(self.dropout(self._aggregate(features)))
        presence_logits = self.class_presence(classes)
        logits = logits + class_presence(presence_logits)[:, :, None, None] * torch.sigmoid(auxiliary + masks[0])
        return HeadOutput(logits, auxiliary, tuple(diverse for _, diverse in rebuilt), presence_logits)

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


def class_presence(presence_logits: Tensor) -> Tensor:
    """Softmax share of each class embedding for its own class, ``p``: (B, K, K) to (B, K), 0..1."""
    shares = presence_logits.softmax(-1)
    return (shares * torch.eye(shares.shape[1]).to(shares)).sum(-1)  # the diagonal, in two nodes of ONNX


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
