"""Images with PyTorch's outputs from the checkpoint, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from model_export.exportable import Exportable
from model_export.images import generated_images, photos_in
from model_export.parity import labels_of_logits, pytorch_logits
from model_export.verify import Case, Cases, Labelled
from service.engines.base import Rows
from service.imaging.resize import resize_to_input
from service.imaging.segmentation import labels_of
from service.model_directory.agreement import Agreement, labels_agreement, logits_agreement
from service.model_directory.manifest import GraphInfo, Manifest
from service.model_directory.sizes import Size
from trainer.checkpoint import CheckpointError
from trainer.datasets import SegmentationDataset, choose_dataset, open_dataset
from trainer.model.ecenet import ECENet
from trainer.prediction.open_model import open_model
from trainer.weights.network import load_model

Picture = tuple[NDArray[np.uint8], NDArray[np.uint8] | None]
"""An image (H, W, 3) uint8 of any size, and its label map (H, W) if it has one."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """The source of images.

    Attributes:
        name: A name for people.
        count: Number of images.
        read: Gives them one by one; generated ones have the input's size.
    """

    name: str
    count: int
    read: Callable[[Size], Iterator[Picture]]


def generated_pictures(count: int) -> Pictures:
    """Generated images, in place of real ones."""

    def read(size: Size) -> Iterator[Picture]:
        for seed in range(count):
            (image,) = generated_images(size, 1, seed)
            yield image, None

    return Pictures(f"{count} generated images", count, read)


def pictures_in(source: Path, count: int) -> Pictures:
    """The first images of a folder, or one image file.

    Raises:
        ValueError: There is none.
    """
    photos = photos_in(source)[:count]

    def read(_: Size) -> Iterator[Picture]:
        for photo in photos:
            yield photo.read(), None

    return Pictures(f"{len(photos)} images of {source}", len(photos), read)


def labelled_pictures(dataset: SegmentationDataset, split: str, count: int | None) -> Pictures:
    """The first images of a split, or all of them, with their label maps."""
    total = len(dataset) if count is None else min(count, len(dataset))

    def read(_: Size) -> Iterator[Picture]:
        for index in range(total):
            sample = dataset[index]
            yield sample.image, sample.labels

    return Pictures(f"{total} labelled images of {dataset.name} {split}", total, read)


def load_exportable(checkpoint: Path, manifest: Manifest) -> Exportable:
    """The network of a checkpoint, which has to have as many classes as the manifest.

    Raises:
        CheckpointError: The file is not a whole network, or one of other classes.
    """
    model = load_model(checkpoint)
    if not isinstance(model, ECENet):
        raise CheckpointError(f"{checkpoint} holds a {type(model).__name__} alone, expected a whole network")
    if model.config.num_classes != manifest.num_classes:
        found, expected = model.config.num_classes, manifest.num_classes
        raise CheckpointError(f"{checkpoint} has {found} classes, {manifest.name} has {expected}; name its checkpoint")
    return Exportable(model)


def open_fitting(checkpoint: Path, name: str | None, root: Path, split: str) -> SegmentationDataset:
    """Open a split whose classes are those of a checkpoint, as ``ecenet-evaluate`` does.

    Args:
        checkpoint: A file of a whole network.
        name: Kind of dataset; the checkpoint's, or what the folder looks like, if None.
        root: Folder of the dataset.
        split: The split.

    Raises:
        DatasetError: The folder does not fit.
        ModelError: The classes differ.
    """
    with open_model(str(checkpoint)) as model:
        dataset = open_dataset(choose_dataset(root, name, model.dataset), root, split)
        model.check_classes(dataset)
    return dataset


def pytorch_cases(exportable: Exportable, pictures: Pictures) -> Cases:
    """Cases of these images: resized as the service does it, through PyTorch once each."""

    def cases(size: Size) -> Iterator[Case]:
        for pixels, truth in pictures.read(size):
            image = resize_to_input(pixels, size)
            yield _case(image, truth, pytorch_logits(exportable, [image]))

    return cases


def _case(image: NDArray[np.uint8], truth: NDArray[np.uint8] | None, logits: NDArray[np.float32]) -> Case:
    def agreement(rows: Rows, graph: GraphInfo) -> Agreement:
        if graph.output == "logits":
            return logits_agreement(logits, cast(NDArray[np.float32], rows))
        return labels_agreement(labels_of_logits(logits, graph), cast(NDArray[np.uint8], rows))

    if truth is None:
        return Case(image, agreement)
    height, width = truth.shape

    def label_map(graph: GraphInfo) -> NDArray[np.uint8]:
        rows = logits if graph.output == "logits" else labels_of_logits(logits, graph)
        return labels_of(rows[0], (height, width))

    return Case(image, agreement, Labelled(truth, label_map))
