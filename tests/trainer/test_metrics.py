"""Confusion matrix and figures on a case worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.metrics import ConfusionMatrix


def test_figures_of_a_small_case() -> None:
    matrix = ConfusionMatrix(3)
    labels = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
    predictions = np.array([[0, 0, 1, 1], [1, 0, 2, 0]], np.uint8)
    matrix.update(labels, predictions)
    assert matrix.counts.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    scores = matrix.scores()
    assert scores.class_iou[:2].tolist() == [0.5, 0.5]
    assert np.isnan(scores.class_iou[2])
    assert scores.miou == 0.5
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.mean_accuracy == pytest.approx(2 / 3)


def test_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 4, (2, 10, 20)).astype(np.uint8)
    whole, parts = ConfusionMatrix(4), ConfusionMatrix(4)
    whole.update(labels, predictions)
    for row in range(10):
        parts.update(labels[row], predictions[row])
    assert np.array_equal(whole.counts, parts.counts)


def test_nothing_counted_gives_nan() -> None:
    scores = ConfusionMatrix(2).scores()
    assert np.isnan([scores.miou, scores.accuracy, scores.mean_accuracy]).all()


def test_shapes_and_classes_are_checked() -> None:
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError, match="shape"):
        matrix.update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="2 classes"):
        matrix.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 2, np.uint8))
