"""TensorBoard's view of a run: scalars per step, scores and sample predictions per evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from service.model_directory.manifest import ClassInfo
from trainer.config import ConfigError
from trainer.metrics import Scores
from trainer.report.examples import Example
from trainer.report.images import full_palette, triptych


def step_values(
    losses: Mapping[str, float], lr: float, grad_norm: float | None, images_per_s: float
) -> dict[str, float]:
    """The scalars of a step by their names; see ``TensorBoard.step``."""
    values = {f"loss/{name}": value for name, value in losses.items()}
    values |= {"schedule/lr": lr, "speed/images_per_s": images_per_s}
    return values if grad_norm is None else {**values, "schedule/grad_norm": grad_norm}


def evaluation_values(scores: Scores, classes: Sequence[ClassInfo]) -> dict[str, float]:
    """The scalars of an evaluation by their names, without classes that do not occur."""
    values = {"val/miou": scores.miou, "val/accuracy": scores.accuracy, "val/mean_accuracy": scores.mean_accuracy}
    values |= {f"iou/{info.name}": float(scores.class_iou[info.id]) for info in classes}
    return {name: value for name, value in values.items() if not math.isnan(value)}


class TensorBoard:
    """Writes the events of one run; on resuming it continues in the same folder, and no step appears twice.

    Args:
        folder: Folder of the event files.
        resume_step: Steps done when this process began; what an earlier process wrote of later steps is void.
        every: Steps between two entries of ``step``.

    Raises:
        ConfigError: The package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path, *, resume_step: int = 0, every: int = 10) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                "runtime.tensorboard is true, but the package tensorboard is not installed: "
                f"pip install tensorboard, or set it to false ({error})"
            ) from error
        if every < 1:
            raise ConfigError(f"every is {every} steps, expected at least 1")
        self._every, self._folder = every, folder
        with self._named():
            self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1, flush_secs=30)

    def step(
        self, step: int, losses: Mapping[str, float], lr: float, grad_norm: float | None, images_per_s: float
    ) -> None:
        """Write each loss term, the learning rate, the gradient's norm before clipping, and the rate.

        Args:
            step: Optimiser's steps done, from 1; those that are not a multiple of ``every`` are passed over.
            losses: The weighted terms by name.
            lr: Base learning rate of this step.
            grad_norm: None if it was not computed.
            images_per_s: Images per second, over all processes.
        """
        if step % self._every:
            return
        self._scalars(step, step_values(losses, lr, grad_norm, images_per_s))

    def evaluation(
        self, step: int, scores: Scores, classes: Sequence[ClassInfo], samples: Sequence[Example] = ()
    ) -> None:
        """Write mIoU, aAcc, mAcc and the IoU per class, 0..1, and image, label and prediction of each sample.

        Args:
            step: Optimiser's steps done.
            scores: Of the evaluation; a class that does not occur gets no point.
            classes: The classes in the order of their ids.
            samples: The same images at each evaluation, see ``FixedExamples``; side by side, void in black.

        Raises:
            OSError: The events cannot be written, as on a full disk.
        """
        self._scalars(step, evaluation_values(scores, classes))
        palette = full_palette(classes)
        with self._named():
            for sample in samples:
                picture = triptych(sample.image, sample.labels, sample.prediction, palette)
                self._writer.add_image(f"sample/{sample.index}", picture, step, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Write pending events and close the file; one that cannot be written does not hide why the run ends."""
        with suppress(OSError):
            self._writer.close()

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._named():
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the folder in the error of events that cannot be written."""
        try:
            yield
        except OSError as error:
            text = f"events for TensorBoard cannot be written to {self._folder}: {error}; the checkpoints stay"
            raise OSError(text) from error
