"""Pooling as constant matrices equals adaptive average pooling."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from trainer.model.class_extraction import ClassExtraction, averaging_matrix, learned_grid


@pytest.mark.parametrize(("num_classes", "side"), [(5, 3), (11, 3), (19, 5), (150, 13)])
def test_learned_grid_is_the_odd_square_root(num_classes: int, side: int) -> None:
    assert learned_grid(num_classes) == side


@pytest.mark.parametrize("size", [(16, 24), (23, 17), (2, 3), (1, 1), (45, 60)])
def test_embeddings_equal_adaptive_pooling(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    extraction = ClassExtraction(num_classes=19, embed_dim=8)
    masks = torch.randn(2, 19, *size)
    cells = [F.adaptive_avg_pool2d(masks, grid).flatten(2) for grid in (1, 2, 3, 6, 5)]
    torch.testing.assert_close(extraction(masks), extraction.projection(torch.cat(cells, 2)), atol=1e-5, rtol=0)


def test_rows_average() -> None:
    matrix = averaging_matrix((1, 3), 7)
    assert matrix.shape == (4, 7)
    torch.testing.assert_close(matrix.sum(1), torch.ones(4))
    assert matrix[1].nonzero().ravel().tolist() == [0, 1, 2]
