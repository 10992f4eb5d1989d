"""The attention of the SAU as the release computes it: the baseline of the fused form in ``trainer.model.attention``.

Every head's scores are written out, softmax is taken of their maximum minus them, the masks are their mean over the
heads, and classes are pooled by PyTorch's adaptive pooling. Weights and results are those of ``trainer.model``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.model.class_extraction import ClassExtraction, averaging_matrix
from trainer.model.semantics_attention import SemanticsAttention


def naive_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Attention of ``softmax(max(S) - S)`` and the mean of ``S`` over the heads, both from the scores ``S``.

    Args:
        query: Features, (B, C, H, W).
        key: Class keys, (B, K, C).
        value: Class values, (B, K, C).
        num_heads: Heads h that share the C channels.

    Returns:
        What the positions gather (B, H·W, C), and the logits of the masks (B, K, H, W).
    """
    queries, keys, values = (_split_heads(x, num_heads) for x in (query.flatten(2).transpose(1, 2), key, value))
    scores = queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5  # (B, h, H·W, K)
    shares = torch.softmax(scores.amax(-1, keepdim=True) - scores, -1)
    attended = (shares @ values).transpose(1, 2).flatten(2)  # (B, h, H·W, d) -> (B, H·W, C)
    masks = scores.mean(1).transpose(1, 2)
    # Contiguous, as adaptive pooling of any other layout exports as a gather.
    return attended, masks.reshape(*masks.shape[:2], *query.shape[2:]).contiguous()


class NaiveSemanticsAttention(SemanticsAttention):
    """``SemanticsAttention`` with its scores written out: the same parameters, inputs and outputs."""

    def forward(self, features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        query = self.query(self.norm_features(features))
        key, value = self.key_value(self.norm_classes(classes)).chunk(2, -1)
        attended, masks = naive_attention(query, key, value, self.num_heads)
        x = features + self.projection(attended.transpose(1, 2).reshape(features.shape))
        return x + self.mlp(self.norm_mlp(x)), masks


class NaiveClassExtraction(ClassExtraction):
    """``ClassExtraction`` with adaptive pooling wherever ONNX has an operator for it: where the grid divides the map.

    Elsewhere the exporter would write a sum of gathers, 784 of them for a grid of 3 on a side of 80, so that the
    constant matrices stay.
    """

    def forward(self, masks: Tensor) -> Tensor:
        embeddings: Tensor = self.projection(torch.cat([_pooled(masks, grid) for grid in self.grids], 2))
        return embeddings


def _pooled(masks: Tensor, grid: int) -> Tensor:
    """Means of (B, K, H, W) over a grid of cells, (B, K, grid²)."""
    height, width = masks.shape[2:]
    if height % grid == 0 == width % grid:
        return F.adaptive_avg_pool2d(masks, grid).flatten(2)
    rows, columns = (averaging_matrix((grid,), side).to(masks) for side in (height, width))
    return (rows @ (masks @ columns.T)).flatten(2)


def _split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    return tokens.reshape(*tokens.shape[:2], num_heads, -1).transpose(1, 2)  # (B, N, C) -> (B, h, N, d)
