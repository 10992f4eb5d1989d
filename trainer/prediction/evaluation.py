"""Evaluation of a predictor on a dataset: counts of the pixels of each image, at the image's own size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.datasets import Sample, SegmentationDataset
from trainer.metrics import Counts
from trainer.prediction.predictor import Predictor

OnImage = Callable[[int, Sample, NDArray[np.uint8]], object]
"""Called with the index, the sample and the predicted label map of each image; its result is not used."""


class EvaluationError(ValueError):
    """An image that could not be evaluated; the text names its file."""


def evaluate(
    predict: Predictor,
    dataset: SegmentationDataset,
    *,
    indices: Sequence[int] | None = None,
    boundary: bool = False,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    on_image: OnImage | None = None,
) -> Counts:
    """Counts of a predictor on the images of a dataset.

    Args:
        predict: Called once per image.
        dataset: Images and labels.
        indices: Which images; all if not given. Counts of parts add up to those of the whole.
        boundary: Also count the boundary regions.
        progress: Wraps the indices, as tqdm does.
        on_image: Called after each image.

    Raises:
        EvaluationError: The predictor fails on an image with ``ValueError``, or its answer has another size or ids that
            are not a class.
    """
    counts = Counts.zeros(len(dataset.classes), boundary=boundary)
    for index in progress(range(len(dataset)) if indices is None else indices):
        sample = dataset[index]
        try:
            predicted = predict(sample.image)
            counts.update(sample.labels, predicted)
        except ValueError as error:
            raise EvaluationError(f"{dataset.pairs[index][0]}: {error}") from error
        if on_image is not None:
            on_image(index, sample, predicted)
    return counts
