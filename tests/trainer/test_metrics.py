"""Counts and figures: a case worked by hand, sums, and torchmetrics as the reference."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainer.datasets import IGNORE_INDEX
from trainer.metrics import Counts, Scores
from trainer.model.timm_loader import import_timm


@pytest.fixture(scope="module")
def torchmetrics() -> ModuleType:
    """torchmetrics, which imports torchvision; timm's loader makes that work beside any PyTorch."""
    import_timm()
    from torchmetrics.functional import classification  # noqa: PLC0415

    return classification


def counted(labels: NDArray[np.uint8], predictions: NDArray[np.uint8], num_classes: int, **options: bool) -> Counts:
    counts = Counts.zeros(num_classes, **options)
    counts.update(labels, predictions)
    return counts


def random_maps(seed: int, num_classes: int, classes: int | None = None) -> tuple[NDArray[np.uint8], ...]:
    """Labels with void, and predictions right in about half of the pixels, of the first ``classes`` classes."""
    rng = np.random.default_rng(seed)
    labels, noise = rng.integers(0, classes or num_classes, (2, 40, 50)).astype(np.uint8)
    predictions = np.where(rng.random(labels.shape) < 0.5, labels, noise)
    return np.where(rng.random(labels.shape) < 0.1, np.uint8(IGNORE_INDEX), labels), predictions


def test_figures_of_a_small_case() -> None:
    labels = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
    predictions = np.array([[0, 0, 1, 1], [1, 0, 2, 0]], np.uint8)
    counts = counted(labels, predictions, 3)
    assert counts.confusion.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    scores = counts.scores()
    assert scores.class_iou[:2].tolist() == [0.5, 0.5]
    assert scores.class_accuracy[:2].tolist() == [2 / 3, 2 / 3]
    assert np.isnan([scores.class_iou[2], scores.class_accuracy[2]]).all()
    assert scores.miou == 0.5
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.mean_accuracy == pytest.approx(2 / 3)
    assert (scores.class_boundary_iou, scores.boundary_miou) == (None, None)


def test_a_class_that_is_only_predicted_counts_as_0() -> None:
    scores = counted(np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 1]], np.uint8), 3).scores()
    assert (scores.class_iou[1], scores.class_accuracy[1]) == (0, 0)
    assert (scores.miou, scores.mean_accuracy, scores.accuracy) == (0.375, 0.375, 0.75)


@pytest.mark.parametrize(
    "case", ["every class", "absent classes", "predicted only", "labelled only", "all void but one"]
)
def test_figures_equal_those_of_torchmetrics(case: str, torchmetrics: ModuleType) -> None:
    labels, predictions = random_maps(1, 7, 5 if case == "absent classes" else 7)
    if case == "predicted only":
        labels = np.where(labels == 6, np.uint8(0), labels)
    if case == "labelled only":
        predictions = np.where(predictions == 6, np.uint8(0), predictions)
    if case == "all void but one":
        labels = np.full_like(labels, IGNORE_INDEX)
        labels[3, 4] = 2
    scores = counted(labels, predictions, 7).scores()
    target, preds = torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(predictions.astype(np.int64))

    def reference(name: str, average: str) -> NDArray[np.float64]:
        metric = getattr(torchmetrics, f"multiclass_{name}")
        value = metric(preds, target, num_classes=7, average=average, ignore_index=IGNORE_INDEX)
        return np.asarray(value.double())

    assert scores.miou == pytest.approx(reference("jaccard_index", "macro"), abs=1e-6)
    assert scores.accuracy == pytest.approx(reference("accuracy", "micro"), abs=1e-6)
    assert scores.mean_accuracy == pytest.approx(reference("accuracy", "macro"), abs=1e-6)
    for ours, name in ((scores.class_iou, "jaccard_index"), (scores.class_accuracy, "accuracy")):
        assert np.nan_to_num(ours) == pytest.approx(reference(name, "none"), abs=1e-6)
    absent = np.isin(np.arange(7), [*labels.ravel(), *predictions[labels != IGNORE_INDEX]], invert=True)
    assert np.array_equal(np.isnan(scores.class_iou), absent)


@pytest.mark.parametrize("boundary", [False, True])
def test_counts_add_up_over_images(boundary: bool) -> None:
    maps = [random_maps(seed, 4) for seed in range(3)]
    whole = Counts.zeros(4, boundary=boundary)
    for labels, predictions in maps:
        whole.update(labels, predictions)
    parts = [counted(labels, predictions, 4, boundary=boundary) for labels, predictions in maps]
    total = parts[0] + parts[1] + parts[2]
    for expected, actual in zip(whole.arrays(), total.arrays(), strict=True):
        assert expected.dtype == np.int64
        assert np.array_equal(expected, actual)
    assert not np.array_equal(parts[0].confusion, total.confusion)


def test_sums_written_into_the_arrays_are_the_counts() -> None:
    labels, predictions = random_maps(0, 4)
    counts = counted(labels, predictions, 4, boundary=True)
    doubled = counts + counts
    for array in counts.arrays():
        torch.from_numpy(array).mul_(2)
    assert counts.boundary is not None
    assert np.array_equal(counts.confusion, doubled.confusion)
    assert np.array_equal(counts.boundary, doubled.arrays()[1])


def test_counts_of_other_classes_do_not_add_up() -> None:
    with pytest.raises(ValueError, match=r"\[\(2, 2\)\] and \[\(3, 3\)\]"):
        Counts.zeros(2) + Counts.zeros(3)
    with pytest.raises(ValueError, match="do not add up"):
        Counts.zeros(2) + Counts.zeros(2, boundary=True)


def test_nothing_counted_gives_nan() -> None:
    scores: Scores = Counts.zeros(2, boundary=True).scores()
    values = (scores.miou, scores.accuracy, scores.mean_accuracy, scores.boundary_miou)
    assert all(value is not None and np.isnan(value) for value in values)


def test_boundary_figures_are_those_of_the_summed_regions() -> None:
    counts = Counts(np.diag([9, 9, 0]), np.array([[1, 3, 0], [2, 4, 0]]))
    scores = counts.scores()
    assert scores.class_boundary_iou is not None
    assert scores.class_boundary_iou[:2].tolist() == [0.5, 0.75]
    assert np.isnan(scores.class_boundary_iou[2])
    assert scores.boundary_miou == 0.625


def test_shapes_and_classes_are_checked() -> None:
    counts = Counts.zeros(2)
    with pytest.raises(ValueError, match="shape"):
        counts.update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a prediction is 2, expected a class 0\.\.1"):
        counts.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 2, np.uint8))
    with pytest.raises(ValueError, match="a label is 254"):
        counts.update(np.full((2, 2), 254, np.uint8), np.zeros((2, 2), np.uint8))
    assert counts.confusion.sum() == 0
