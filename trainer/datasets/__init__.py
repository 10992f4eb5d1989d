"""Image and label pairs of the datasets, with their class names and palettes."""

from trainer.datasets.base import PairedFiles, Sample, SegmentationDataset
from trainer.datasets.camvid import CAMVID_CLASSES, CAMVID_VOID, CamVid
from trainer.datasets.errors import (
    DatasetError,
    LabelRangeError,
    MissingFileError,
    SizeMismatchError,
    UnreadableFileError,
)
from trainer.datasets.in_memory import InMemory, Repeated
from trainer.datasets.label_coding import IGNORE_INDEX
from trainer.datasets.reading import read_image, read_label_map
from trainer.datasets.registry import DATASETS, choose_dataset, dataset_classes, guess_dataset, open_dataset, splits_in

__all__ = [
    "CAMVID_CLASSES",
    "CAMVID_VOID",
    "DATASETS",
    "IGNORE_INDEX",
    "CamVid",
    "DatasetError",
    "InMemory",
    "LabelRangeError",
    "MissingFileError",
    "PairedFiles",
    "Repeated",
    "Sample",
    "SegmentationDataset",
    "SizeMismatchError",
    "UnreadableFileError",
    "choose_dataset",
    "dataset_classes",
    "guess_dataset",
    "open_dataset",
    "read_image",
    "read_label_map",
    "splits_in",
]
