"""Figures of label maps."""

from __future__ import annotations

import numpy as np
import pytest

from service.imaging.segmentation import VOID, Segmentation, class_counts, confidence_map, labels_of, mean_confidences


def test_every_class_is_counted_also_absent_ones() -> None:
    labels = np.array([[0, 2, 2], [4, 2, 0]], np.uint8)
    counts = class_counts(labels, 6)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, [2, 0, 3, 0, 1, 0])


def test_counts_of_256_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 256, (31, 47), np.uint8)
    np.testing.assert_array_equal(class_counts(labels, 256), np.bincount(labels.ravel(), minlength=256))


def test_labels_of_an_engine_are_enlarged_by_their_nearest_cell() -> None:
    cells = np.array([[0, 1], [2, 3]], np.uint8)
    assert labels_of(cells, (4, 2)).tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert labels_of(cells, (2, 2)).tolist() == cells.tolist()


def test_logits_of_an_engine_become_labels() -> None:
    logits = np.zeros((2, 2, 2), np.float32)
    logits[1] = [-1, 1]
    assert labels_of(logits, (2, 4)).tolist() == [[0, 0, 1, 1]] * 2


def test_confidence_of_a_cell_is_its_largest_softmax_probability() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 6, 7)).astype(np.float32)
    exponentials = np.exp(logits.astype(np.float64))
    expected = np.rint(255 * exponentials.max(0) / exponentials.sum(0))
    confidence = confidence_map(logits, (6, 7))
    assert confidence.dtype == np.uint8
    assert np.abs(confidence - expected).max() <= 1  # float32


def test_confidence_of_huge_logits_is_finite() -> None:
    assert confidence_map(np.array([[[3e38]], [[-3e38]]], np.float32), (1, 1)).tolist() == [[255]]
    assert confidence_map(np.full((2, 1, 1), -3e38, np.float32), (1, 1)).tolist() == [[128]]


def test_confidence_is_enlarged_bilinearly() -> None:
    logits = np.zeros((2, 1, 2), np.float32)
    logits[0, 0] = [100, 0]
    # Pixel centres lie at -0.375, -0.125, ... 1.375 cells; outside of 0..1 the outer cell goes on.
    shares = np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)
    assert np.abs(confidence_map(logits, (1, 8))[0] - (255 * (1 - shares) + 128 * shares)).max() <= 1


@pytest.mark.parametrize("size", [(31, 17), (601, 577)])  # the second is counted in several parts
def test_mean_confidence_of_every_class(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    labels, confidence = generator.integers(0, 4, size, np.uint8), generator.integers(0, 256, size, np.uint8)
    labels[labels == 2] = VOID
    means = mean_confidences(labels, confidence, 4)
    for class_id in (0, 1, 3):
        assert means[class_id] == pytest.approx(confidence[labels == class_id].mean() / 255)
    assert means[2] == 0


def test_restricted_segmentation_keeps_the_classes_alone() -> None:
    segmentation = Segmentation(np.array([[0, 1, 2]], np.uint8), np.array([[7, 8, 9]], np.uint8))
    kept = segmentation.restrict((0, 2))
    assert kept.labels.tolist() == [[0, VOID, 2]]
    assert kept.confidence is not None
    assert kept.confidence.tolist() == [[7, 0, 9]]
    assert Segmentation(segmentation.labels).restrict([1]).labels.tolist() == [[VOID, 1, VOID]]
