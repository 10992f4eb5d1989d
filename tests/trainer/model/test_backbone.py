"""Backbones: strides, and Swin's shifted windows against the definition."""

from __future__ import annotations

import pytest
import torch

from trainer.model.backbone import ConvBackbone, SwinBackbone, fused_window_attention, shifted_window_mask


def test_stage_features_have_strides_4_to_32() -> None:
    backbone = ConvBackbone("tf_efficientnet_lite0").eval()
    with torch.no_grad():
        stages = backbone(torch.zeros(1, 3, 70, 101))
    assert [tuple(stage.shape[1:]) for stage in stages] == [(24, 18, 26), (40, 9, 13), (112, 5, 7), (320, 3, 4)]
    assert backbone.channels == (24, 40, 112, 320)


def test_a_backbone_of_other_strides_is_refused() -> None:
    with pytest.raises(ValueError, match="strides"):  # VGG has none of 4 in front
        ConvBackbone("vgg11")


def test_mask_parts_what_the_shift_brought_together() -> None:
    rows, columns, window, shift = 2, 3, 4, 2
    mask = shifted_window_mask(rows, columns, window, shift)
    assert mask.shape == (6, 16, 16)
    height, width = rows * window, columns * window
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.roll((-shift, -shift), (0, 1)), x.roll((-shift, -shift), (0, 1))  # where each token came from
    windows = [
        torch.stack([y, x], -1)[r * window : (r + 1) * window, c * window : (c + 1) * window].reshape(-1, 2)
        for r in range(rows)
        for c in range(columns)
    ]
    for index, origin in enumerate(windows):
        near = (origin[:, None] - origin[None]).abs().amax(-1) < window
        assert torch.equal(mask[index] == 0, near)


@pytest.mark.parametrize("size", [(64, 96), (72, 90)])
def test_fused_window_attention_is_the_same_function(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = SwinBackbone(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4), window_size=4).eval()
    for name, value in backbone.named_parameters():
        if "relative_position_bias_table" in name:  # zero at the start, and then no bias would be missed
            torch.nn.init.normal_(value)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = backbone(image)
        with fused_window_attention(backbone):
            fused = backbone(image)
        after = backbone(image)
    for stage in range(4):
        assert torch.allclose(fused[stage], expected[stage], atol=1e-5)
        assert torch.equal(after[stage], expected[stage])
