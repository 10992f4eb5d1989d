"""ECENet with one of its parts taken out, by replacing submodules from the outside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.model.ecenet import ECENet
from trainer.model.layers import ChannelLayerNorm


class NormalisedStage(nn.Module):
    """In the place of FR: the stage feature itself, through the LayerNorm over channels that FR ends with.

    Without the norm the lateral convolutions would get stage features of very different scales.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelLayerNorm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The feature (B, C, H, W), and one channel that stands for the diverse half; its loss has no meaning."""
        return self.norm(x), x[:, :1]


class LearnedClasses(nn.Module):
    """In the place of ECE: an embedding per class that is a weight, (K, D); the masks give the batch size alone."""

    def __init__(self, num_classes: int, embed_dim: int) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.empty(num_classes, embed_dim))
        nn.init.trunc_normal_(self.embeddings, std=0.02)

    def forward(self, masks: Tensor) -> Tensor:
        """Embeddings (B, K, D) for masks (B, K, H, W)."""
        return self.embeddings.expand(masks.shape[0], -1, -1)


def without_reconstruction(model: ECENet) -> ECENet:
    """Take FR out of every stage; train it without the diversity loss, which is FR's."""
    model.decode_head.feature_reconstruction = nn.ModuleList(NormalisedStage(c) for c in model.backbone.channels)
    return model


def with_learned_classes(model: ECENet) -> ECENet:
    """Put learned embeddings where each stage would extract them from masks; updaters and attention stay."""
    head, config = model.decode_head, model.config
    head.class_extraction = nn.ModuleList(
        LearnedClasses(config.num_classes, config.channels) for _ in head.class_extraction
    )
    return model
