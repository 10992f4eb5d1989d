"""One run of the comparison: a variant's first weights, its training, and the checkpoints from which it resumes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.accuracy.recipe import Recipe
from benchmarks.accuracy.variants import VARIANTS, build_variant
from trainer.build import load_training_state, start_at_principal_directions, training_state
from trainer.datasets import SegmentationDataset
from trainer.distributed import Ranks, rank_batches
from trainer.losses import Losses, balanced_class_weights, class_pixels
from trainer.model.initialisation import start_ghost_bilinear
from trainer.precision import keep_depthwise_in_float
from trainer.prediction.pytorch import normalise
from trainer.run import START_STEPS
from trainer.schedule import MovingAverage, build_optimizer
from trainer.training_loop import (
    AugmentedViews,
    Batch,
    BatchLoader,
    StepSettings,
    TrainingState,
    epoch_order,
    train_steps,
)
from trainer.weights.pretrained import load_imagenet_weights

LOGGED = 40
CHECKPOINT_STEPS = 50
ALONE = Ranks(0, 1, torch.device("cpu"))


@dataclass(slots=True)
class Curve:
    """Mean loss terms of ``LOGGED`` stretches of equal length, and the progress on standard error.

    Attributes:
        name: Of the run.
        steps: How many it has.
        entries: The stretches that are done.
        recent: The terms of the steps since.
        done: Steps done.
        seconds: Time that they took, over all processes that had a part.
    """

    name: str
    steps: int
    entries: list[dict[str, float]] = field(default_factory=list)
    recent: list[list[float]] = field(default_factory=list)
    done: int = 0
    seconds: float = 0.0
    _last: float = field(default_factory=time.perf_counter)

    def __call__(self, losses: Losses) -> None:
        self.recent.append([float(term) for term in losses])
        self.done += 1
        now = time.perf_counter()
        self.seconds, self._last = self.seconds + now - self._last, now
        if len(self.recent) == max(self.steps // LOGGED, 1) or self.done == self.steps:
            means = np.mean(self.recent, axis=0).round(4).tolist()
            self.entries.append({"step": self.done, **dict(zip(Losses._fields, means, strict=True))})
            self.recent.clear()
            rate = self.seconds / self.done
            print(f"{self.name}: {self.entries[-1]}, {rate:.3f} s per step", file=sys.stderr, flush=True)

    def as_dict(self) -> dict[str, Any]:
        """The state that a checkpoint keeps."""
        return {"entries": self.entries, "recent": self.recent, "done": self.done, "seconds": self.seconds}


def initial_state(variant: str, dataset: SegmentationDataset, recipe: Recipe, seed: int) -> TrainingState:
    """A variant with ImageNet's weights in its backbone and its head's first weights, its optimiser and schedule."""
    own = VARIANTS[variant]
    recipe = own.recipe(recipe)
    torch.manual_seed(seed)
    model = build_variant(variant, len(dataset.classes))
    if own.bilinear_start:
        start_ghost_bilinear(model.decode_head)
    load_imagenet_weights(model.backbone, model.config.backbone)  # type: ignore[arg-type]
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = MovingAverage(model, recipe.ema_decay)
    keep_depthwise_in_float(model)
    optimizer, scheduler = build_optimizer(
        model,
        lr=recipe.lr,
        head_lr_multiple=recipe.head_lr_multiple,
        classifier_lr_multiple=recipe.classifier_lr_multiple,
        weight_decay=recipe.weight_decay,
        total_steps=recipe.steps,
        warmup_steps=min(recipe.warmup_steps, recipe.steps // 2),
        power=recipe.power,
    )
    state = TrainingState(model, average, optimizer, scheduler)
    if own.principal_start:
        batches = epoch_batches(dataset, recipe, seed, 0, slice(min(START_STEPS, recipe.steps)))
        images = (normalise(images, model.config) for images, _ in batches)
        start_at_principal_directions(state, images, ALONE, seed=seed)
    return state


def train(
    state: TrainingState,
    dataset: SegmentationDataset,
    variant: str,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path | None = None,
) -> Curve:
    """Train for the recipe's steps; the same seed gives every variant the same views in the same order.

    Args:
        state: As ``initial_state`` gives it.
        dataset: The training data.
        variant: Gives the loss.
        recipe: The rest.
        seed: Of views and dropout.
        checkpoint: Written every ``CHECKPOINT_STEPS`` steps, and resumed from if it exists.
    """
    curve = Curve(f"{variant}, seed {seed}", recipe.steps)
    if checkpoint is not None and checkpoint.exists():
        content = torch.load(checkpoint, weights_only=True)
        load_training_state(state, content)
        curve = Curve(curve.name, recipe.steps, **content["curve"])
    for losses in train_by(state, dataset, variant, recipe, seed):
        curve(losses)
        if checkpoint is not None and state.step % CHECKPOINT_STEPS == 0:
            _save(state, curve, checkpoint)
    return curve


def train_by(
    state: TrainingState, dataset: SegmentationDataset, variant: str, recipe: Recipe, seed: int
) -> Iterator[Losses]:
    """The remaining steps of a run, by the variant's loss; gives the terms of each."""
    class_weights = balanced_class_weights(class_pixels(dataset))
    steps = len(dataset) // recipe.batch_size
    for epoch in count(state.step // steps):
        start = epoch * steps
        weights = VARIANTS[variant].loss_at(start / recipe.steps)
        settings = StepSettings(weights, class_weights, recipe.precision, recipe.clip_norm, seed=seed)
        loader = epoch_batches(dataset, recipe, seed, epoch, slice(state.step - start, recipe.steps - start))
        for group in train_steps(state, loader, settings, ALONE):
            yield from (values.losses for values in group)
        if state.step == recipe.steps:
            return


def epoch_batches(
    dataset: SegmentationDataset, recipe: Recipe, seed: int, epoch: int, part: slice
) -> DataLoader[Batch]:
    """Some of the batches of an epoch."""
    load = BatchLoader(partial(AugmentedViews, dataset, recipe.augmentation(), seed), workers=0)
    order = epoch_order(seed, epoch, len(dataset))
    return load(epoch, rank_batches(order, batch_size=recipe.batch_size, parts=1, ranks=ALONE)[part])


def _save(state: TrainingState, curve: Curve, path: Path) -> None:
    content = {
        "training": training_state(state),
        "weights": state.average.model.state_dict(),
        "curve": curve.as_dict(),
    }
    temporary = path.with_name(path.name + ".part")
    torch.save(content, temporary)
    temporary.replace(path)
