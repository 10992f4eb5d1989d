"""Feature Reconstruction (FR): intrinsic and diverse features of one stage (figure 3 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.model.layers import ChannelLayerNorm, conv_bn


class FeatureReconstruction(nn.Module):
    """Rebuilds a stage feature from an intrinsic half and a cheap, gated diverse half.

    Neither branch has an activation and the gate has no sigmoid, as in the released code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.intrinsic = conv_bn(channels, half, 1)
        self.diverse = conv_bn(half, half, 3, groups=half, bias=True)
        self.gate = nn.Sequential(
            nn.Linear(half, half // 2, bias=False), nn.ReLU(), nn.Linear(half // 2, half, bias=False)
        )
        self.fuse = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = ChannelLayerNorm(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rebuild a stage feature (B, C, H, W).

        Returns:
            The feature (B, C, H, W), and the gated diverse half (B, C/2, H, W) for the diversity loss.
        """
        intrinsic = self.intrinsic(x)
        diverse = self.diverse(intrinsic)
        diverse = diverse * self.gate(diverse.mean((2, 3)))[:, :, None, None]
        return self.norm(self.fuse(torch.cat([diverse, intrinsic], 1))), diverse


def diverse_peaks(diverse: Tensor) -> Tensor:
    """Per position, the largest share that any channel gives it: (B, C, H, W) to (B, H·W), each in 0..1.

    Every channel spreads one unit over the positions; the more positions are some channel's peak, the more diverse the
    channels are. The diversity loss asks for a large sum.
    """
    return diverse.flatten(2).float().softmax(2).amax(1)


def scale_free(diverse: Tensor) -> Tensor:
    """Channels (B, C, H, W) divided by their root mean square over the positions of an image.

    Peaks of the plain branch have no finite optimum: a larger amplitude alone sharpens every softmax and lowers the
    diversity loss. In the bundled model 1.5.0, which was trained so, the gates of stage 3 have a standard deviation of
    71. Peaks at one amplitude depend only on where a channel is large. The constant stands inside of the root: a gate
    of exactly 0 then gives zeros and finite gradients.
    """
    diverse = diverse.float()
    return diverse * torch.rsqrt(diverse.square().mean((2, 3), keepdim=True) + 1e-5)
