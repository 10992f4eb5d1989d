"""SegNeXt's decoder, "LightHam": Guo et al., NeurIPS 2022; its matrix decomposition: Geng et al., ICLR 2021.

A feature is written as a product of R bases and their coefficients, all of them not negative. A few multiplicative
updates find both. The product has rank R: it keeps what positions all over the image share.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RANK = 16  # R, as in SegNeXt-T and -S
TRAINING_UPDATES, UPDATES = 6, 7
_SMALL = 1e-6


class LightHamburger(nn.Module):
    """The last three stages to a feature (B, width, H_1, W_1) at stride 8; the first of four stages given is not used.

    Args:
        in_channels: Channels of the three stages.
        width: Channels of what comes out.
    """

    def __init__(self, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.squeeze = _conv_norm(sum(in_channels), width)
        self.lower = nn.Conv2d(width, width, 1)
        self.raise_ = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), _norm(width))
        self.align = _conv_norm(width, width)
        bases = torch.rand(width, RANK, generator=torch.Generator().manual_seed(0))
        self.register_buffer("bases", F.normalize(bases, dim=0))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = features[1].shape[2:]
        resized = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in features[1:]]
        x = self.squeeze(torch.cat(resized, 1))
        matrix = torch.relu(self.lower(x)).flatten(2)  # (B, C, N)
        low_rank = decompose(matrix, self._first_bases(matrix), TRAINING_UPDATES if self.training else UPDATES)
        aligned: Tensor = self.align(torch.relu(x + self.raise_(low_rank.reshape(x.shape))))
        return aligned

    def _first_bases(self, matrix: Tensor) -> Tensor:
        """(B, C, R): other ones in each step of training, the same in every evaluation."""
        if not self.training:
            return self.get_buffer("bases").expand(matrix.shape[0], -1, -1)
        return F.normalize(torch.rand(*matrix.shape[:2], RANK, dtype=matrix.dtype, device=matrix.device), dim=1)


def decompose(matrix: Tensor, bases: Tensor, updates: int) -> Tensor:
    """The product of non-negative factors that approximates a matrix, by Lee and Seung's multiplicative updates.

    The gradient goes through the last update of the coefficients alone, as in the authors' code.

    Args:
        matrix: (B, C, N), not negative.
        bases: The first ones, (B, C, R).
        updates: How often bases and coefficients are renewed.

    Returns:
        (B, C, N) of rank R.
    """
    with torch.no_grad():
        coefficients = (matrix.transpose(1, 2) @ bases).softmax(-1)  # (B, N, R)
        for _ in range(updates):
            coefficients = _renewed(coefficients, matrix.transpose(1, 2), bases)
            bases = _renewed(bases, matrix, coefficients)
    coefficients = _renewed(coefficients, matrix.transpose(1, 2), bases)
    return bases @ coefficients.transpose(1, 2)


def _renewed(factor: Tensor, matrix: Tensor, other: Tensor) -> Tensor:
    """One update of a factor (B, M, R) of ``matrix ~ factor · otherᵀ`` with ``other`` (B, L, R)."""
    return factor * (matrix @ other) / (factor @ (other.transpose(1, 2) @ other) + _SMALL)


def _conv_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), _norm(out_channels), nn.ReLU())


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)
