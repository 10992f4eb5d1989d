"""The fused attention equals the formulas of the paper, written out."""

from __future__ import annotations

import pytest
import torch

from trainer.model.attention import class_masks, inverse_attention


@pytest.mark.parametrize("num_heads", [1, 4])
def test_fused_equals_the_paper(num_heads: int) -> None:
    torch.manual_seed(0)
    batch, channels, height, width, num_classes = 2, 32, 5, 7, 19
    query = torch.randn(batch, channels, height, width)
    key, value = torch.randn(2, batch, num_classes, channels)
    head_dim = channels // num_heads
    q = query.flatten(2).transpose(1, 2).reshape(batch, -1, num_heads, head_dim).transpose(1, 2)
    k = key.reshape(batch, num_classes, num_heads, head_dim).transpose(1, 2)
    v = value.reshape(batch, num_classes, num_heads, head_dim).transpose(1, 2)
    scores = q @ k.transpose(2, 3) * head_dim**-0.5
    weights = (scores.amax(-1, keepdim=True) - scores).softmax(-1)
    attended = (weights @ v).transpose(1, 2).reshape(batch, -1, channels)
    masks = scores.mean(1).transpose(1, 2).reshape(batch, num_classes, height, width)
    fused = inverse_attention(query.flatten(2).transpose(1, 2), key, value, num_heads)
    torch.testing.assert_close(fused, attended, atol=1e-5, rtol=0)
    torch.testing.assert_close(class_masks(query, key, num_heads), masks, atol=1e-5, rtol=0)
