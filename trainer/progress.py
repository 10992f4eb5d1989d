"""The progress of a run: a bar per epoch with the time that the whole run has left, and the epoch's mean losses."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Never, Self

import numpy as np
from tqdm import tqdm

from trainer.losses import Losses

_FORMAT = "{desc}: {percentage:3.0f}%|{bar:12}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Progress:
    """Draws a bar per epoch of a run, on standard error.

    The time left follows from the mean time per step since this object was made: it counts what happens between the
    epochs too, as evaluations and checkpoints. On a terminal the bar is drawn every two seconds, into a file every 30.

    Args:
        epochs: Epochs of the whole run.
        steps: Steps of an epoch.
        images: Images of a step, over all processes.
        done: Steps of the whole run that were done before, when it is resumed.
        silent: Whether to draw nothing and only count, as all processes but the first do.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        epochs: int,
        steps: int,
        *,
        images: int = 1,
        done: int = 0,
        silent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.epochs, self.steps, self.images = epochs, steps, images
        self._silent, self._clock = silent, clock
        self._started, self._first, self._done = clock(), done, done
        self._sums = np.zeros(len(Losses._fields))
        self._epoch_started, self._epoch_steps = self._started, 0
        self._bar: tqdm[Never] | None = None

    def epoch(self, epoch: int) -> Self:
        """Begin the epoch, counted from 0; to be used in a ``with`` statement."""
        self._sums[:] = 0
        self._epoch_started, self._epoch_steps = self._clock(), 0
        self._bar = tqdm(
            total=self.epochs * self.steps,
            initial=self._done,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            bar_format=_FORMAT,
            mininterval=2 if sys.stderr.isatty() else 30,
            disable=self._silent,
        )
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, losses: Losses, lr: float | None = None) -> None:
        """Count a step: its weighted loss terms, and the base learning rate that it was done with."""
        self._sums += [float(term) for term in losses]
        self._epoch_steps += 1
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(self._postfix(lr), refresh=False)
            self._bar.update()

    def mean(self) -> dict[str, float]:
        """Mean of each loss term over the epoch's steps so far, as ``loss_NAME``."""
        means = self._sums / max(self._epoch_steps, 1)
        return {f"loss_{name}": float(value) for name, value in zip(Losses._fields, means, strict=True)}

    @property
    def seconds(self) -> float:
        """Seconds since the epoch began."""
        return self._clock() - self._epoch_started

    @property
    def images_per_s(self) -> float:
        """Images per second of this epoch's steps so far; 0 before the first."""
        return self._epoch_steps * self.images / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Seconds until the end of the whole run, NaN before the first step."""
        counted = self._done - self._first
        left = self.epochs * self.steps - self._done
        return (self._clock() - self._started) / counted * left if counted else float("nan")

    def _postfix(self, lr: float | None) -> str:
        parts = [f"ETA {tqdm.format_interval(self.seconds_left)}", f"{self.images_per_s:.1f} images/s"]
        if lr is not None:
            parts.append(f"lr {lr:.2e}")
        return ", ".join([*parts, *(f"{name[5:]} {value:.3f}" for name, value in self.mean().items())])
