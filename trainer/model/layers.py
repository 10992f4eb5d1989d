"""The two layers that the boxes of ECENet share."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of a feature map (B, C, H, W), each position on its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, *, groups: int = 1, bias: bool = False
) -> nn.Sequential:
    """A convolution that keeps the size, and its batch norm; ``.0`` and ``.1`` in the state dict."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=bias),
        nn.BatchNorm2d(out_channels),
    )
