"""Boundary regions against erosion as the paper's authors do it, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.boundary import boundary_counts, boundary_region, boundary_width
from trainer.datasets import IGNORE_INDEX

Mask = NDArray[np.bool_]


def eroded(mask: Mask) -> Mask:
    """One erosion by 3x3 of a mask that is padded with zeros."""
    height, width = mask.shape
    padded = np.pad(mask, 1)
    result = np.zeros_like(mask)
    for row in range(height):
        for column in range(width):
            result[row, column] = padded[row : row + 3, column : column + 3].all()
    return result


def region(mask: Mask, width: int) -> Mask:
    inside = mask
    for _ in range(width):
        inside = eroded(inside)
    return mask & ~inside


def blobs(seed: int, shape: tuple[int, int], num_classes: int = 3) -> NDArray[np.uint8]:
    """A label map of rectangles."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for _ in range(6):
        top, left = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        labels[top : top + rng.integers(2, 12), left : left + rng.integers(2, 12)] = rng.integers(num_classes)
    return labels


@pytest.mark.parametrize("width", [1, 2, 3, 9])
@pytest.mark.parametrize("shape", [(17, 23), (20, 20), (1, 9), (9, 1), (2, 2), (7, 19)])
def test_the_regions_are_what_erosion_takes_off(shape: tuple[int, int], width: int) -> None:
    for seed in range(3):
        labels = blobs(seed, shape)
        expected = np.zeros(shape, np.bool_)
        for index in range(3):
            expected |= region(labels == index, width)
        assert np.array_equal(boundary_region(labels, width), expected)


@pytest.mark.parametrize(("size", "width"), [((10, 10), 1), ((360, 480), 12), ((640, 640), 18), ((1024, 2048), 46)])
def test_the_width_is_two_percent_of_the_diagonal(size: tuple[int, int], width: int) -> None:
    assert boundary_width(size) == width


def test_counts_equal_those_of_masks_class_by_class() -> None:
    labels, predictions = blobs(0, (60, 80), 4), blobs(1, (60, 80), 4)
    expected = []
    for index in range(5):
        in_label, in_prediction = region(labels == index, 2), region(predictions == index, 2)
        expected.append([(in_label & in_prediction).sum(), (in_label | in_prediction).sum()])
    assert boundary_counts(labels, predictions, 5).T.tolist() == expected


def test_void_counts_for_nothing() -> None:
    labels, predictions = blobs(0, (30, 40)), blobs(1, (30, 40))
    labels[10:20, 5:30] = IGNORE_INDEX
    others = predictions.copy()
    others[labels == IGNORE_INDEX] = 2
    counts = boundary_counts(labels, predictions, 3)
    assert np.array_equal(counts, boundary_counts(labels, others, 3))
    in_label = boundary_region(labels, 1)
    expected = [(in_label & (labels == index)).sum() for index in range(3)]
    perfect = np.where(labels == IGNORE_INDEX, others, labels)
    assert boundary_counts(labels, perfect, 3).tolist() == [expected, expected]


def test_a_right_answer_has_an_iou_of_1_and_a_shifted_one_less_than_its_mask() -> None:
    labels = np.zeros((50, 50), np.uint8)
    labels[10:40, 10:40] = 1
    intersection, union = boundary_counts(labels, labels, 2)
    assert np.array_equal(intersection, union)
    intersection, union = boundary_counts(labels, np.roll(labels, 1, 1), 2)
    assert intersection[1] / union[1] < (29 * 30) / (31 * 30)
