"""Expected time and memory of a run, measured on a few steps that are taken back."""

from __future__ import annotations

import copy
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch

from trainer.build import load_training_state, training_state
from trainer.datasets import SegmentationDataset
from trainer.distributed import Ranks
from trainer.prediction.predictor import Predictor
from trainer.training_loop import Batch, StepSettings, TrainingState, train_steps

Clock = Callable[[], float]
"""Seconds, monotonic."""


def time_steps(
    state: TrainingState,
    batches: Iterable[Batch],
    settings: StepSettings,
    ranks: Ranks,
    clock: Clock = time.perf_counter,
) -> float:
    """Seconds of a step, as all ranks do it together; the state is restored.

    The first step is left out where there are more: it allocates, and compiles if asked.

    Raises:
        DivergedError: The loss is NaN or infinite already.
    """
    before = copy.deepcopy({"training": training_state(state), "weights": state.average.model.state_dict()})
    each = replace(settings, read_every=1)
    ends = [clock(), *(clock() for _ in train_steps(state, batches, each, ranks))]
    load_training_state(state, before)
    seconds = np.diff(ends)
    return float(np.median(seconds[1:] if len(seconds) > 1 else seconds))


def time_image(predict: Predictor, dataset: SegmentationDataset, clock: Clock = time.perf_counter) -> float:
    """Seconds that reading and predicting an image of a dataset takes, the second time."""
    predict(dataset[0].image)
    start = clock()
    predict(dataset[0].image)
    return clock() - start


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that the process has held so far, on the GPU if that is its device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kibibytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibytes
