"""From a network to label maps at the images' size, and the evaluation of label maps on a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.imaging.label_map import label_map
from service.imaging.resize import resize_to_input
from trainer.datasets import Sample, SegmentationDataset
from trainer.metrics import Counts
from trainer.model.ecenet import ECENet, ModelConfig

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images (B, h, w, 3) uint8 of the network's size to logits (B, K, ceil(h / 4), ceil(w / 4))."""

Predictor = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""An image (H, W, 3) uint8 to its label map (H, W) uint8."""

OnImage = Callable[[int, Sample, NDArray[np.uint8]], object]
"""Told the index, the sample and the predicted label map of each image; what it gives is not used."""


class EvaluationError(ValueError):
    """An image that could not be evaluated; the text names its file."""


def normalise(images: Tensor, config: ModelConfig) -> Tensor:
    """Images (B, H, W, 3) uint8 to the model's input (B, 3, H, W) float32, in the channels-last layout."""
    mean, std = (torch.tensor(values, device=images.device) for values in (config.mean, config.std))
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def evaluate(
    predict: Predictor,
    dataset: SegmentationDataset,
    *,
    indices: Sequence[int] | None = None,
    boundary: bool = False,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    on_image: OnImage | None = None,
) -> Counts:
    """Counts of a predictor on the images of a dataset, at the images' own size.

    Args:
        predict: Called once per image.
        dataset: Images and labels.
        indices: Which images; all if not given. Counts of parts add up to those of the whole.
        boundary: Also count the boundary regions.
        progress: Wraps the indices, as tqdm does.
        on_image: Called after each image.

    Raises:
        EvaluationError: The predictor fails on an image with ``ValueError``, or its answer has another size or ids that
            are no class.
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


def infer_one(infer: Infer, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (K, ·, ·) of one image (h, w, 3)."""
    logits: NDArray[np.float32] = infer(image[None])[0]
    return logits


def image_predictor(infer: Infer, input_size: tuple[int, int]) -> Predictor:
    """A predictor around a network: resize, network, label map at the image's size, as the service does it."""

    def predict(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        logits = infer_one(infer, resize_to_input(image, input_size))
        return label_map(logits, (image.shape[0], image.shape[1]))

    return predict


def torch_infer(model: ECENet) -> Infer:
    """A network in eval mode as ``Infer``, on the device where its parameters are; images may have any size."""

    @torch.inference_mode()
    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        device = next(model.parameters()).device
        logits: Any = model(normalise(torch.from_numpy(np.array(images)).to(device), model.config))
        return cast(NDArray[np.float32], logits.float().cpu().numpy())

    return infer


def torch_predictor(model: ECENet, input_size: tuple[int, int]) -> Predictor:
    """A network in eval mode as a predictor."""
    return image_predictor(torch_infer(model), input_size)
