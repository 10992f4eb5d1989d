"""The evaluation of a predictor on a dataset: which images, what is told of them, and whose fault a failure is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.datasets import IGNORE_INDEX, Sample, open_dataset
from trainer.prediction.evaluation import EvaluationError, evaluate

Pixels = NDArray[np.uint8]


def by_grey(image: Pixels) -> Pixels:
    """The right answer on the miniature CamVid, whose greys are 23 times the class."""
    return image[..., 0] // 23


def test_a_right_predictor_scores_1_without_void(tiny_camvid: Path) -> None:
    counts = evaluate(by_grey, open_dataset("camvid", tiny_camvid, "val"), boundary=True)
    scores = counts.scores()
    assert (scores.miou, scores.accuracy, scores.mean_accuracy, scores.boundary_miou) == (1, 1, 1, 1)
    assert counts.confusion.sum() == 2 * (48 * 64 - 4 * 4)


def test_counts_of_chosen_images_add_up_to_the_whole(tiny_camvid: Path) -> None:
    dataset = open_dataset("camvid", tiny_camvid, "train")

    def predict(image: Pixels) -> Pixels:
        return (by_grey(image) + image[..., 0] % 2) % 11

    whole = evaluate(predict, dataset, boundary=True)
    first, second = (evaluate(predict, dataset, indices=range(part, 8, 2), boundary=True) for part in (0, 1))
    for expected, actual in zip(whole.arrays(), (first + second).arrays(), strict=True):
        assert np.array_equal(expected, actual)
    assert evaluate(predict, dataset).boundary is None
    assert evaluate(predict, dataset, indices=[]).confusion.sum() == 0


def test_each_image_is_told_after_it_was_counted(tiny_camvid: Path) -> None:
    dataset = open_dataset("camvid", tiny_camvid, "train")
    told: list[tuple[int, Sample, Pixels]] = []
    shown: list[int] = []

    def progress(indices: Sequence[int]) -> list[int]:
        shown.extend(indices)
        return shown

    evaluate(by_grey, dataset, indices=[5, 2], progress=progress, on_image=lambda *image: told.append(image))
    assert [index for index, _, _ in told] == shown == [5, 2]
    for index, sample, predicted in told:
        assert np.array_equal(sample.image, dataset[index].image)
        assert (predicted == sample.labels)[sample.labels != IGNORE_INDEX].all()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda image: by_grey(image)[1:], r"00\.png: labels have shape \(48, 64\), predictions \(47, 64\)"),
        (
            lambda image: np.full(image.shape[:2], 11, np.uint8),
            r"00\.png: a prediction is 11, expected a class 0\.\.10",
        ),
    ],
)
def test_the_file_of_a_wrong_answer_is_named(answer: object, message: str, tiny_camvid: Path) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate(answer, open_dataset("camvid", tiny_camvid, "val"))  # type: ignore[arg-type]
