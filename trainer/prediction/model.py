"""A model that is open for prediction, however it was opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.datasets import SegmentationDataset
from trainer.prediction.predictor import Predictor

T = TypeVar("T")


class ModelError(ValueError):
    """A model that cannot be opened or run, or that does not belong to the dataset."""


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model ready to predict.

    Attributes:
        predict: Its predictor.
        num_classes: K.
        class_names: Names in the order of the ids, or None where the model does not state them.
        dataset: The dataset that it states to be trained on, or None.
    """

    predict: Predictor
    num_classes: int
    class_names: tuple[str, ...] | None
    dataset: str | None = None

    def check_classes(self, dataset: SegmentationDataset) -> None:
        """Compare the classes with those of a dataset.

        Raises:
            ModelError: The number of classes or a name differs; the text states the first that does.
        """
        check_classes(self.num_classes, self.class_names, dataset)


def check_classes(count: int, names: Sequence[str] | None, dataset: SegmentationDataset) -> None:
    """Compare a model's classes with those of a dataset.

    Args:
        count: Their number.
        names: Their names in the order of the ids; None where the model does not state them.
        dataset: The dataset.

    Raises:
        ModelError: The number of classes or a name differs; the text states the first that does.
    """
    if count != len(dataset.classes):
        raise ModelError(f"the model has {count} classes, {dataset.name} has {len(dataset.classes)}")
    for info, name in zip(dataset.classes, names or [], strict=names is not None):
        if info.name != name:
            raise ModelError(f"class {info.id} is {name!r} in the model and {info.name!r} in {dataset.name}")


def stated_names(names: Sequence[str]) -> tuple[str, ...] | None:
    """Class names, or None where an export numbered the classes of a checkpoint that did not name them."""
    return None if all(name == f"class_{index}" for index, name in enumerate(names)) else tuple(names)


def naming_failures(infer: Callable[[NDArray[np.uint8]], T], name: str) -> Callable[[NDArray[np.uint8]], T]:
    """Wrap ``infer``: any exception of its runtime becomes a ``ModelError`` with the model's name."""

    def named(images: NDArray[np.uint8]) -> T:
        try:
            return infer(images)
        except Exception as error:
            raise ModelError(f"{name} failed on images {images.shape}: {error}") from error

    return named
