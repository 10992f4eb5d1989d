"""Figures of label maps."""

from __future__ import annotations

import numpy as np

from service.postprocess import class_counts


def test_every_class_is_counted_also_absent_ones() -> None:
    labels = np.array([[0, 2, 2], [4, 2, 0]], np.uint8)
    counts = class_counts(labels, 6)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, [2, 0, 3, 0, 1, 0])


def test_counts_of_256_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 256, (31, 47), np.uint8)
    np.testing.assert_array_equal(class_counts(labels, 256), np.bincount(labels.ravel(), minlength=256))
