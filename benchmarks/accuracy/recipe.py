"""The recipe that all variants share but for the rate of their head, and the data at half resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling

from benchmarks.accuracy.unseen import sequence_of
from trainer.datasets import InMemory, Sample, SegmentationDataset, open_dataset
from trainer.transforms import Augmentation


@dataclass(frozen=True, slots=True)
class Recipe:
    """That of a first training of the bundled model, at half resolution and with its length in steps.

    Attributes:
        steps: Steps of the optimiser.
        batch_size: Views per step.
        lr: Base rate of AdamW for the backbone.
        head_lr_multiple: The head's rate per backbone's rate.
        classifier_lr_multiple: The rate of the head's last layer per backbone's rate; the variant's own if None.
        weight_decay: Decay of everything but norms and biases.
        warmup_steps: Steps of linear warm-up.
        power: Exponent of the polynomial decay.
        ema_decay: Decay per step of the averaged weights, which are those evaluated.
        clip_norm: Largest norm of the gradient.
        precision: Of the forward pass: ``fp32``, or ``bf16``, which is faster on CPUs that multiply it.
        input_size: (height, width) that whole images are resized to for the model.
        crop_size: (height, width) of a training view.
        scale: Range of random scales of a view.
        jitter: Largest relative change of brightness, contrast and saturation.
    """

    steps: int
    batch_size: int = 8
    lr: float = 3e-4
    head_lr_multiple: float = 8.0
    classifier_lr_multiple: float | None = None
    weight_decay: float = 0.01
    warmup_steps: int = 45
    power: float = 0.9
    ema_decay: float = 0.998
    clip_norm: float = 5.0
    precision: str = "fp32"
    input_size: tuple[int, int] = (192, 256)
    crop_size: tuple[int, int] = (192, 256)
    scale: tuple[float, float] = (0.6, 1.6)
    jitter: float = 0.4

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it: sequences are lists."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    def augmentation(self) -> Augmentation:
        """The random views of this recipe."""
        return Augmentation(self.input_size, self.crop_size, self.scale, self.jitter)


class HalfResolution:
    """A dataset at half its resolution: images averaged over 2 x 2 pixels, labels by the nearest pixel."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self._dataset = dataset
        self.name, self.classes, self.pairs = dataset.name, dataset.classes, dataset.pairs

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self._dataset[index]
        return Sample(_halved(sample.image, Resampling.BOX), _halved(sample.labels, Resampling.NEAREST))

    def labels(self, index: int) -> NDArray[np.uint8]:
        return _halved(self._dataset.labels(index), Resampling.NEAREST)


class Part:
    """Some images of a dataset."""

    def __init__(self, dataset: SegmentationDataset, indices: Sequence[int]) -> None:
        self._dataset, self._indices = dataset, tuple(indices)
        self.name, self.classes = dataset.name, dataset.classes
        self.pairs: Sequence[tuple[Path, Path]] = [dataset.pairs[index] for index in indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[self._indices[index]]

    def labels(self, index: int) -> NDArray[np.uint8]:
        return self._dataset.labels(self._indices[index])


def hold_out_ends(dataset: SegmentationDataset, share: float = 0.2) -> tuple[SegmentationDataset, SegmentationDataset]:
    """A dataset in two: all but the last images of each drive, and those, which are close in time."""
    drives = [sequence_of(pair) for pair in dataset.pairs]
    ends = {
        index
        for drive in set(drives)
        for own in [[index for index, name in enumerate(drives) if name == drive]]
        for index in own[len(own) - round(share * len(own)) :]
    }
    rest = [index for index in range(len(dataset)) if index not in ends]
    return Part(dataset, rest), Part(dataset, sorted(ends))


def open_half_resolution(root: Path, split: str) -> SegmentationDataset:
    """A split of CamVid, read once, at 240 x 180 pixels."""
    return InMemory(HalfResolution(open_dataset("camvid", root, split)))


def _halved(pixels: NDArray[np.uint8], resampling: Resampling) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    return np.array(Image.fromarray(pixels).resize((width // 2, height // 2), resampling))
