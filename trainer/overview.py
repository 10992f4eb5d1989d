"""Text of a run before it starts: images, steps, time and memory, and what will hinder learning or scoring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.model_directory.manifest import ClassInfo
from service.model_directory.sizes import format_size
from trainer.config import ConfigError, TrainConfig
from trainer.datasets import SegmentationDataset
from trainer.datasets.files import plural, summary
from trainer.datasets.mixed import Mixed

FEW_VAL_IMAGES = 10
"""Below these, one image moves the mIoU more than a better network does."""

LOOKED_AT = 500
"""Label maps that are searched for each class, at most."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Measured cost of a run on this machine.

    Attributes:
        step_s: Seconds of a step.
        image_s: Seconds of an image of val.
        memory_bytes: Most memory held so far.
    """

    step_s: float
    image_s: float
    memory_bytes: int


def overview(
    config: TrainConfig, train: SegmentationDataset, val: SegmentationDataset, steps_per_epoch: int, terms: str
) -> str:
    """The lines on data and schedule, and on the terms of the bundled weights, where there are some."""
    data, schedule, runtime = config.data, config.schedule, config.runtime
    ends = f"; ends early after {runtime.patience} without a better mIoU" if runtime.patience else ""
    views = f"{schedule.batch_size} views of {format_size(data.crop_size)} a step"
    return "\n".join(
        [
            f"{_images(train, data.repeat)}, {len(val):,} to evaluate on, {len(train.classes)} classes ({train.name})",
            f"input {format_size(data.input_size)}, {views}, from {config.model.pretrained} weights",
            f"{schedule.epochs * steps_per_epoch:,} steps in {plural(schedule.epochs, 'epoch')}, "
            f"{plural(evaluations(config), 'evaluation')}{ends}",
            *_terms(terms),
        ]
    )


def _images(train: SegmentationDataset, repeat: int | None) -> str:
    if isinstance(train, Mixed):
        parts = ", ".join(f"{count:,} of {name}" for name, count in train.places)
        return f"{plural(len(train), 'image')} an epoch to learn from ({parts})"
    seen = f", each seen {repeat} times an epoch" if repeat and repeat > 1 else ""
    return f"{plural(len(train) // (repeat or 1), 'image')} to learn from{seen}"


def _terms(terms: str) -> Iterator[str]:
    """A line on the terms of the bundled weights, which models trained from them inherit."""
    if terms:
        yield f"terms of the bundled weights: {terms}; model.pretrained=imagenet starts without them"


def cost_text(config: TrainConfig, cost: Cost, *, steps: int, val_images: int, evaluated: int) -> str:
    """The line on time and memory.

    Args:
        config: Of the run.
        cost: As it was measured.
        steps: Steps that are to be done.
        val_images: Images of val that each rank predicts.
        evaluated: Evaluations that are done already.
    """
    seconds = steps * cost.step_s + (evaluations(config) - evaluated) * val_images * cost.image_s
    return (
        f"about {duration(seconds)} on this machine at most: {cost.step_s:.2f} s a step, {cost.image_s:.2f} s an image "
        f"of val; {cost.memory_bytes / 1e9:.1f} GB of memory"
    )


def evaluations(config: TrainConfig) -> int:
    """Evaluations of a whole run."""
    return math.ceil(config.schedule.epochs / config.runtime.evaluate_every)


def warnings(train: SegmentationDataset, val: SegmentationDataset) -> Iterator[str]:
    """A sentence on each thing that will keep the run from learning a class, or from measuring how well it does.

    Raises:
        ConfigError: No pixel to learn from has a label.
    """
    unseen = unseen_classes(train)
    if len(unseen) == len(train.classes):
        raise ConfigError("no label of train has a class, so there is nothing to learn; run ecenet-train data check")
    if unseen:
        yield f"train has no pixel of {_names(unseen)}: what is not shown cannot be learned"
    unmeasured = [info for info in unseen_classes(val) if info not in unseen]
    if unmeasured:
        yield f"val has no pixel of {_names(unmeasured)}: nothing shows how well it is learned"
    if len(val) < FEW_VAL_IMAGES:
        yield f"val has {plural(len(val), 'image')}: differences of its mIoU are mostly chance"


def unseen_classes(dataset: SegmentationDataset, looked_at: int = LOOKED_AT) -> list[ClassInfo]:
    """The classes that the label maps do not show, of at most ``looked_at`` that are spread over all."""
    present = np.zeros(256, bool)
    count = min(looked_at, len(dataset))
    for place in range(count):
        present |= np.bincount(dataset.labels(place * len(dataset) // count).ravel(), minlength=256) > 0
        if present[: len(dataset.classes)].all():
            return []
    return [info for info in dataset.classes if not present[info.id]]


def duration(seconds: float) -> str:
    """A time for people: seconds, minutes, or hours with minutes."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _names(classes: Sequence[ClassInfo]) -> str:
    return summary([info.name for info in classes])
