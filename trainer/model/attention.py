"""The attention of the SAU, as one fused operator and one product (figure 3 of the paper).

The paper's attention is ``softmax(max(S) - S) · v`` over the class axis, with ``S = q · kᵀ / sqrt(d)`` per head, and
its class masks are the mean of ``S`` over the heads. Softmax does not change when the maximum is added, so the first is
the common attention with ``-k`` for ``k``; and the mean over heads of products over d channels is one product over all
C channels. So the scores ``(B, heads, N, K)`` never exist, and export finds a plain attention operator to fuse.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def inverse_attention(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Attention of ``softmax(-S)``: positions gather the embeddings of the classes that they resemble least.

    Args:
        query: Features, (B, N, C).
        key: Class keys, (B, K, C).
        value: Class values, (B, K, C).
        num_heads: Heads h that share the C channels.

    Returns:
        (B, N, C), the heads side by side.
    """
    heads = F.scaled_dot_product_attention(
        _split_heads(query, num_heads), _split_heads(-key, num_heads), _split_heads(value, num_heads)
    )
    return heads.transpose(1, 2).flatten(2)  # (B, h, N, d) -> (B, N, C)


def class_masks(query: Tensor, key: Tensor, num_heads: int) -> Tensor:
    """Mean over heads of the scores ``S``, the masks of the classes.

    Args:
        query: Features, (B, C, H, W).
        key: Class keys, (B, K, C).
        num_heads: Heads h that share the C channels.

    Returns:
        Logits of the masks, (B, K, H, W).
    """
    head_dim = key.shape[-1] // num_heads
    scores: Tensor = (key * (head_dim**-0.5 / num_heads)) @ query.flatten(2)  # (B, K, H·W)
    return scores.reshape(*scores.shape[:2], *query.shape[2:])


def _split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    return tokens.reshape(*tokens.shape[:2], num_heads, -1).transpose(1, 2)  # (B, N, C) -> (B, h, N, d)
