"""The two splits that a run uses: one to learn from, one to be evaluated on."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from trainer.config import ConfigError, DataSection
from trainer.datasets import InMemory, PairedFiles, Repeated, SegmentationDataset, open_dataset, splits_in
from trainer.datasets.files import copies
from trainer.datasets.mixed import mixed
from trainer.datasets.reading import image_size
from trainer.datasets.source import Source
from trainer.transforms import Augmentation

logger = logging.getLogger(__name__)

OpenSource = tuple[PairedFiles, Source]
"""A dataset to learn from beside the first, and the table of the configuration that names it."""

FEW_IMAGES = 10
"""Below these, a folder without val is evaluated on its training images: no image can be spared."""

# Evaluation is at the images' own size, so large ones are read again each time.
MAX_CACHED_VAL_BYTES = 256 << 20
_BYTES_PER_PIXEL = 4


def open_splits(section: DataSection, root: Path, *, seed: int = 0) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Open ``train`` and ``val`` of a dataset, in memory if asked; other sources are mixed into ``train`` alone.

    Images to learn from are kept no larger than a view can show, those of val only if all of them are small.

    Args:
        section: The configuration of the data.
        root: Folder of the dataset.
        seed: Of the order in which images of other sources are seen.

    Raises:
        DatasetError: A split is not there, or a file cannot be used.
        ConfigError: There is no val split, and enough images to make one; or a source holds images of val.
    """
    files = open_dataset(section.dataset, root, "train")
    scored = _val(section.dataset, root, files)
    sources = [(open_dataset(it.dataset, Path(it.root), it.split), it) for it in section.sources or ()]
    if scored is not files:
        _check_apart(sources, scored)
    fits = section.cache and _num_bytes(scored) <= MAX_CACHED_VAL_BYTES
    return _learned_from(section, files, sources, seed), InMemory(scored) if fits else scored


def _check_apart(sources: Sequence[OpenSource], val: PairedFiles) -> None:
    """Raise an error where a source holds images that the run is evaluated on, under whatever names."""
    scored = [image for image, _ in val.pairs]
    for number, (own, source) in enumerate(sources):
        both = copies((image for image, _ in own.pairs), scored)
        if both:
            raise ConfigError(
                f"data.sources[{number}] ({source.root}, split {source.split!r}) holds {len(both)} of the images that "
                f"the run is evaluated on, such as {both[0][0]}, which is {both[0][1]}; the scores would be of images "
                "that it has learned"
            )


def _learned_from(
    section: DataSection, files: PairedFiles, sources: Sequence[OpenSource], seed: int
) -> SegmentationDataset:
    def prepare(dataset: SegmentationDataset) -> SegmentationDataset:
        return InMemory(dataset, augmentation(section).useful_size) if section.cache else dataset

    train, repeat = prepare(files), section.repeat or 1
    if sources:
        return mixed((train, repeat), [(prepare(dataset), source) for dataset, source in sources], seed=seed)
    return Repeated(train, repeat) if repeat > 1 else train


def augmentation(section: DataSection) -> Augmentation:
    """The views of a configuration."""
    return Augmentation(
        section.input_size,
        section.crop_size,
        section.scale,
        section.jitter,
        section.flip,
        keep_ratio=section.keep_ratio,
        class_views=section.class_views,
        gamma=section.gamma,
        tint=section.tint,
    )


def _val(name: str, root: Path, train: PairedFiles) -> PairedFiles:
    if "val" in splits_in(name, root):
        return open_dataset(name, root, "val")
    if len(train) >= FEW_IMAGES:
        raise ConfigError(
            f"{root} has no val split, so nothing shows how well it learns; for the remedy run "
            f"ecenet-train data check {shlex.quote(str(root))}"
        )
    logger.warning("warning: there is no val split; the scores are those of the training images")
    return train


def _num_bytes(dataset: PairedFiles) -> int:
    return sum(height * width * _BYTES_PER_PIXEL for height, width in (image_size(pair[0]) for pair in dataset.pairs))
