"""The training loop over an epoch, as plain functions."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from trainer.config import LossWeights
from trainer.datasets import SegmentationDataset
from trainer.datasets.mixed import Mixed
from trainer.distributed import Ranks
from trainer.losses import Losses, criterion
from trainer.model.ecenet import ECENet
from trainer.precision import autocast
from trainer.prediction.pytorch import normalise
from trainer.schedule import MovingAverage
from trainer.transforms import Augmentation, mix_classes

Batch = tuple[Tensor, Tensor]
"""Images (B, H, W, 3) and labels (B, H, W), both uint8."""


PREFETCHED = 4  # batches of each worker that wait for the step: views differ in the time that they take


class DivergedError(RuntimeError):
    """A loss or gradient that is not a number; the weights of the last checkpoint are the last good ones."""


@dataclass(frozen=True, slots=True)
class StepValues:
    """Values of a step that was done and found finite.

    Attributes:
        step: Steps done with it since the start of the run.
        losses: Its weighted terms, means over all ranks, on the CPU.
        norm: Norm of the gradient before clipping; infinite where fp16 overflowed and the step was left out.
        lr: Base learning rate after it.
    """

    step: int
    losses: Losses
    norm: float
    lr: float


class AugmentedViews(Dataset[Batch]):
    """Views of one epoch. Each depends on seed, epoch and index alone, so workers and resuming change nothing.

    With the chance ``class_mix`` half of the classes of another image's view are laid over a view.
    """

    def __init__(
        self, dataset: SegmentationDataset, augmentation: Augmentation, seed: int, epoch: int, class_mix: float = 0.0
    ) -> None:
        self.dataset = dataset.at_epoch(epoch) if isinstance(dataset, Mixed) else dataset
        self.augmentation, self.seed, self.epoch = augmentation, seed, epoch
        self.class_mix = class_mix

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        view = self.augmentation(self.dataset[index], rng)
        if self.class_mix and rng.random() < self.class_mix:
            other = self.dataset[int(rng.integers(len(self)))]
            view = mix_classes(view, self.augmentation(other, rng), rng)
        return torch.from_numpy(view.image), torch.from_numpy(view.labels)


def epoch_order(seed: int, epoch: int, count: int) -> list[int]:
    """The indices of an epoch of ``count`` images, in the order that follows from the seed."""
    indices: list[int] = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    return indices


class BatchLoader:
    """Batches of views, prepared by processes that stay from one epoch to the next."""

    def __init__(self, views_at: Callable[[int], AugmentedViews], workers: int, *, pin_memory: bool = False) -> None:
        """Prepare; no process starts before the first batch is asked for.

        Args:
            views_at: Gives the views of an epoch, in each of the processes.
            workers: Processes, which are ``PREFETCHED`` batches ahead; 0 prepares each batch when it is asked for.
            pin_memory: Whether batches come in memory that a GPU reads while the host works on.
        """
        self._places: list[list[_Place]] = []
        self._loader: DataLoader[Batch] = DataLoader(
            _EveryEpoch(views_at),
            batch_sampler=self._places,
            num_workers=workers,
            prefetch_factor=PREFETCHED if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=_leave_signals,
        )

    def __call__(self, epoch: int, batches: list[list[int]]) -> DataLoader[Batch]:
        """The views of each list of indices as a batch, in turn; the next call ends this one's."""
        self._places[:] = [[(epoch, index) for index in batch] for batch in batches]
        return self._loader

    def close(self) -> None:
        """End the processes. They leave SIGTERM alone, so that after an error Python's own end would wait forever."""
        iterator = self._loader._iterator
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()


_Place = tuple[int, int]
"""Epoch and index of a view."""


class _EveryEpoch(Dataset[Batch]):
    """Views of all epochs; a place names its epoch, since a process that stays learns of a new one by it alone."""

    def __init__(self, views_at: Callable[[int], AugmentedViews]) -> None:
        self._views_at = views_at
        self._views: AugmentedViews | None = None

    def __getitem__(self, place: _Place) -> Batch:
        epoch, index = place
        if self._views is None or self._views.epoch != epoch:
            self._views = self._views_at(epoch)
        return self._views[index]


def _leave_signals(_worker: int) -> None:
    """Leave SIGTERM and Ctrl-C to the process that trains: the whole group gets them, and a lost worker would end the
    run without a checkpoint. A worker ends when its parent asks it to, or is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@dataclass(slots=True)
class TrainingState:
    """State that training changes and resuming restores.

    Attributes:
        model: The network being trained.
        average: The moving average of its weights, which is what a run gives.
        optimizer: Its AdamW.
        scheduler: The learning rate's.
        scaler: Of the loss, against fp16's underflow.
        step: Steps done since the start of the run.
        epoch_sums: Sum of each loss term over the steps of the epoch so far.
        network: The module that computes: ``model``, compiled or in DistributedDataParallel where a run asks for that.
        has_new_head: Whether the head's weights are none of a file.
    """

    model: ECENet
    average: MovingAverage[ECENet]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler(enabled=False))
    step: int = 0
    epoch_sums: Tensor = field(default_factory=lambda: torch.zeros(len(Losses._fields)))
    network: nn.Module | None = None
    has_new_head: bool = False


@dataclass(frozen=True, slots=True)
class StepSettings:
    """Settings of a training step.

    Attributes:
        loss_weights: Weights of the loss terms.
        class_weights: Weights of the classes in the cross entropy, (K,), or None.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        clip_norm: Largest norm of the gradient; 0 for no limit.
        parts: Batches that make one step.
        seed: Of dropout, which follows from seed, step and rank alone.
        read_every: Steps whose values are read together. Reading waits until a GPU has done all its work. With 1 a step
            is checked before it changes the weights; with more, a fault is found up to so many steps later.
    """

    loss_weights: LossWeights
    class_weights: Tensor | None = None
    precision: str = "fp32"
    clip_norm: float = 5.0
    parts: int = 1
    seed: int = 0
    read_every: int = 1


def train_steps(
    state: TrainingState, batches: Iterable[Batch], settings: StepSettings, ranks: Ranks
) -> Iterator[list[StepValues]]:
    """Do a step per ``settings.parts`` batches; gives the values of all steps since those that it gave last.

    It gives them when the number of steps done is a multiple of ``settings.read_every``, and at the end.

    Raises:
        DivergedError: A loss or the gradient is NaN or infinite. No step was taken with it if ``read_every`` is 1.
    """
    state.model.train()
    unread: list[_Unread] = []
    for parts in zip(*[iter(batches)] * settings.parts, strict=False):
        torch.manual_seed(_step_seed(settings.seed, state.step, ranks.rank))
        state.optimizer.zero_grad(set_to_none=True)
        terms = [_accumulate(state, part, settings, ranks, last=part is parts[-1]) for part in parts]
        losses = ranks.mean(torch.stack(terms).mean(0))
        norm = _clip(state, settings)
        if settings.read_every == 1:
            row = torch.cat([losses, norm[None]]).cpu()
            _refuse_infinite(row, state.step, scaled=state.scaler.is_enabled())
        _update(state)
        unread.append(_Unread(losses, norm, float(state.scheduler.get_last_lr()[0])))
        if state.step % settings.read_every == 0:
            yield _read(state, unread)
            unread = []
    if unread:
        yield _read(state, unread)


@dataclass(frozen=True, slots=True)
class _Unread:
    """Values of a step, which may still be computed; see ``StepValues``."""

    losses: Tensor
    norm: Tensor
    lr: float


def _read(state: TrainingState, unread: list[_Unread]) -> list[StepValues]:
    """Fetch the last steps' values in one transfer, check them, and add them to the sums of the epoch."""
    rows = torch.stack([torch.cat([step.losses, step.norm[None]]) for step in unread]).cpu()
    values = []
    for step, (row, each) in enumerate(zip(rows, unread, strict=True), state.step - len(unread)):
        _refuse_infinite(row, step, scaled=state.scaler.is_enabled())
        state.epoch_sums += row[:-1]
        values.append(StepValues(step + 1, Losses(*row[:-1].unbind()), float(row[-1].numpy()), each.lr))
    return values


def _accumulate(state: TrainingState, batch: Batch, settings: StepSettings, ranks: Ranks, *, last: bool) -> Tensor:
    """Add the gradient of one part, which the last part averages over all ranks; gives its loss terms, detached."""
    network = state.model if state.network is None else state.network
    images, labels = (tensor.to(ranks.device, non_blocking=True) for tensor in batch)
    alone = network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext()
    with alone:
        with autocast(settings.precision, ranks.device):
            output = network(normalise(images, state.model.config))
        terms = criterion(
            output,
            labels.long(),
            settings.loss_weights,
            settings.class_weights,
            mean_over_ranks=ranks.mean,
            host_labels=batch[1],
        )
        losses = torch.stack(terms)
        state.scaler.scale(losses.sum() / settings.parts).backward()  # type: ignore[no-untyped-call]
    return losses.detach()


def _clip(state: TrainingState, settings: StepSettings) -> Tensor:
    """Clip the gradient; gives its norm before that."""
    state.scaler.unscale_(state.optimizer)
    return nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip_norm or float("inf"))


def _update(state: TrainingState) -> None:
    state.scaler.step(state.optimizer)  # leaves out a step whose fp16 gradient overflowed
    state.scaler.update()
    state.scheduler.step()
    state.average.update(state.model, state.step)
    state.step += 1


def _refuse_infinite(values: Tensor, step: int, *, scaled: bool) -> None:
    """Check loss terms and, behind them, the gradient's norm, all on the CPU; fp16 may overflow in the norm.

    Raises:
        DivergedError: One is not a number.
    """
    *losses, norm = values.tolist()
    if not np.isfinite(losses).all():
        terms = ", ".join(f"{name} {term:g}" for name, term in zip(Losses._fields, losses, strict=True))
        raise DivergedError(f"the loss is not a number at step {step}: {terms}")
    if not np.isfinite(norm) and not scaled:
        raise DivergedError(f"the gradient is not a number at step {step}: its norm is {norm:g}")


def _step_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
