"""Explicit Class Extraction (ECE): class masks to class embeddings (figure 3 of the paper).

The embedding of a class is a linear function of its own mask, pooled to grids of several sizes. Adaptive average
pooling is separable and linear, so it is computed as ``P_h · m · P_wᵀ`` with constant averaging matrices: equal to
``adaptive_avg_pool2d``, and exportable at sizes that the grid does not divide.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

FIXED_GRIDS = (1, 2, 3, 6)


def learned_grid(num_classes: int) -> int:
    """Side of the finest grid, ``int(sqrt(K))`` made odd: 11 -> 3, 19 -> 5, 150 -> 13."""
    side = math.isqrt(num_classes)
    return side + 1 if side % 2 == 0 else side


@lru_cache(maxsize=256)
def _averaging_rows(grids: tuple[int, ...], length: int) -> tuple[tuple[float, ...], ...]:
    rows = []
    for grid in grids:
        for cell in range(grid):
            start, stop = cell * length // grid, -((cell + 1) * length // -grid)  # the borders of adaptive pooling
            rows.append(tuple(1 / (stop - start) if start <= i < stop else 0.0 for i in range(length)))
    return tuple(rows)


def averaging_matrix(grids: tuple[int, ...], length: int) -> Tensor:
    """The averaging matrices of all grids, one above the other: (sum of grids, length), rows sum to one."""
    return torch.tensor(_averaging_rows(grids, length))


class ClassExtraction(nn.Module):
    """Embeds each class from its mask: masks (B, K, H, W) to embeddings (B, K, D)."""

    def __init__(self, num_classes: int, embed_dim: int) -> None:
        super().__init__()
        self.grids = (*FIXED_GRIDS, learned_grid(num_classes))
        self.projection = nn.Linear(sum(grid * grid for grid in self.grids), embed_dim)

    def forward(self, masks: Tensor) -> Tensor:
        height, width = masks.shape[2:]
        rows = averaging_matrix(self.grids, height).to(masks)
        columns = averaging_matrix(self.grids, width).to(masks)
        pooled = rows @ (masks @ columns.T)  # (B, K, S, S) with S the sum of grids; the diagonal blocks are the grids
        cells, start = [], 0
        for grid in self.grids:
            stop = start + grid
            cells.append(pooled[:, :, start:stop, start:stop].flatten(2))
            start = stop
        embeddings: Tensor = self.projection(torch.cat(cells, 2))
        return embeddings
