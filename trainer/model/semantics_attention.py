"""Semantics Attention and Updater (SAU): features attend to classes, masks renew the classes (the paper's figure 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.model.attention import class_masks, inverse_attention
from trainer.model.layers import ChannelLayerNorm


class SemanticsAttention(nn.Module):
    """Features of one stage attend to the class embeddings, then pass a convolutional MLP.

    The query has a ReLU after both of its convolutions, as in the released code.
    """

    def __init__(self, channels: int, num_heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.num_heads = num_heads
        hidden = channels * mlp_ratio
        self.norm_features = ChannelLayerNorm(channels)
        self.norm_classes = nn.LayerNorm(channels)
        self.query = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
        )
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.projection = nn.Conv2d(channels, channels, 1)
        self.norm_mlp = ChannelLayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1),
        )

    def forward(self, features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from features (B, C, H, W) to class embeddings (B, K, C).

        Returns:
            Features (B, C, H, W), and the logits of the class masks (B, K, H, W).
        """
        query = self.query(self.norm_features(features))
        key, value = self.key_value(self.norm_classes(classes)).chunk(2, -1)
        attended = inverse_attention(query.flatten(2).transpose(1, 2), key, value, self.num_heads)
        x = features + self.projection(attended.transpose(1, 2).reshape(features.shape))
        return x + self.mlp(self.norm_mlp(x)), class_masks(query, key, self.num_heads)


class EmbeddingUpdater(nn.Module):
    """Renews class embeddings from those of the new masks through a gate: two (B, K, C) to (B, K, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input_output = nn.Linear(channels, 2 * channels)
        self.current = nn.Linear(channels, channels)
        self.gate = nn.Linear(channels, channels)
        self.norm_gate = nn.LayerNorm(channels)
        self.norm_output = nn.LayerNorm(channels)
        self.projection = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, new: Tensor, classes: Tensor) -> Tensor:
        inputs, outputs = self.input_output(new).chunk(2, -1)
        gate = torch.sigmoid(self.norm_gate(self.gate(self.current(classes) * inputs)))
        return torch.relu(self.norm(self.projection(gate * self.norm_output(outputs) + classes)))
