"""Figures of label maps."""

from __future__ import annotations

import numpy as np

from service.postprocess import class_counts, labels_of


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
