"""A training run from start to end: build, resume, epochs, evaluations, checkpoints, report."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from service.engines.cpus import available_cpus
from trainer.build import (
    build_state,
    check_resumable,
    check_trainable,
    load_training_state,
    start_at_principal_directions,
    training_state,
)
from trainer.config import TrainConfig
from trainer.datasets import SegmentationDataset
from trainer.datasets.files import plural
from trainer.distributed import Ranks, default_workers, joined_ranks, rank_batches, ranks_of_node
from trainer.losses import Losses, balanced_class_weights, class_pixels
from trainer.memory import keep_freed_memory
from trainer.metrics import Counts, Scores
from trainer.overview import Cost, cost_text, overview, warnings
from trainer.patience import best_entry, best_text, evaluation_text, is_exhausted
from trainer.precision import choose_precision
from trainer.prediction.evaluation import evaluate
from trainer.prediction.mode import validation_mode
from trainer.prediction.predictor import Network, Predictor, network_predictor
from trainer.prediction.pytorch import normalise, pytorch_infer
from trainer.progress import Progress
from trainer.report.examples import Example, FixedExamples, spread_indices
from trainer.report.run_report import report_run
from trainer.run_folder import LAST, RunFolder
from trainer.splits import augmentation, open_splits
from trainer.stopping import StoppedError, StopRequest, stop_requests
from trainer.tensorboard import TensorBoard, evaluation_values, step_values
from trainer.timing import peak_memory_bytes, time_image, time_steps
from trainer.training_loop import (
    AugmentedViews,
    Batch,
    BatchLoader,
    StepSettings,
    StepValues,
    TrainingState,
    epoch_order,
    train_steps,
)
from trainer.weights.pretrained import terms_of

logger = logging.getLogger(__name__)

OnLog = Callable[[int, Mapping[str, float]], object]
"""Takes the steps done, and values by the names that TensorBoard shows."""

START_STEPS = 12  # whose views the first weights of Feature Reconstruction are fitted to
GPU_READ_EVERY = 10  # steps; as often as TensorBoard wants values


@dataclass(slots=True)
class Run:
    """State shared by the parts of a run.

    Attributes:
        config: Its configuration.
        folder: Its files.
        ranks: Its processes.
        train: The training data.
        val: The data it is evaluated on.
        state: The network and all that changes with it.
        settings: Settings of a step.
        load: Loads the batches of an epoch.
        steps_per_epoch: Steps of an epoch.
        terms: Terms that its weights have from the bundled model, or empty.
        log: An entry per epoch done.
        best_miou: Highest mIoU on val so far, 0..1.
        on_log: Called after each step and each evaluation.
    """

    config: TrainConfig
    folder: RunFolder
    ranks: Ranks
    train: SegmentationDataset
    val: SegmentationDataset
    state: TrainingState
    settings: StepSettings
    load: BatchLoader
    steps_per_epoch: int
    terms: str
    log: list[dict[str, Any]] = field(default_factory=list)
    best_miou: float = -1.0
    on_log: OnLog | None = None


def train(
    config: TrainConfig,
    data: Path,
    output: Path,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    on_log: OnLog | None = None,
) -> None:
    """Train from the start, or on from the last checkpoint; see ``run_folder`` for the files.

    Under ``torchrun`` each of its processes calls this.

    Args:
        config: The configuration.
        data: Folder of the dataset.
        output: Folder of the run.
        resume: Whether to resume from ``last.pt``; its weights become those of an unbroken run, bit for bit on a CPU.
        accept_changes: Whether the configuration may differ from the one that the run began with.
        on_log: Called by the first process after each step and each evaluation.

    Raises:
        ConfigError: The configuration cannot be carried out, or does not fit the folder.
        DivergedError: The loss became NaN or infinite.
        StoppedError: SIGTERM came; a checkpoint was written first.
        CheckpointError: A checkpoint cannot be written or read.
    """
    with joined_ranks(config.runtime.device) as ranks:
        if ranks.device.type == "cpu":
            keep_freed_memory()
        run = prepare(config, data, output, ranks)
        with closing(run.load):
            run.folder.check(resume=resume)
            ranks.wait()
            if resume:
                restore(run, accept_changes=accept_changes)
            elif config.model.principal_start and run.state.has_new_head:
                _start_from_views(run)
            if ranks.is_first:
                run.folder.begin(config, data, run.log)
            run.on_log = on_log
            _introduce(run)
            with stop_requests() as stop:
                _train_epochs(run, stop)
        if ranks.is_first and run.best_miou >= 0:
            _conclude(run)


def prepare(config: TrainConfig, data: Path, output: Path, ranks: Ranks) -> Run:
    """Open the data and build the network; nothing is written."""
    train_split, val = open_splits(config.data, data, seed=config.schedule.seed)
    schedule = config.schedule
    check_trainable(config, len(train_split), ranks)
    steps = len(train_split) // schedule.batch_size
    precision = choose_precision(schedule.precision, ranks.device)
    state = build_state(config, len(train_split.classes), steps_per_epoch=steps, ranks=ranks, precision=precision)
    weights = balanced_class_weights(class_pixels(train_split)) if config.loss.class_balance else None
    settings = StepSettings(
        config.loss,
        weights.to(ranks.device) if weights is not None else None,
        precision,
        schedule.clip_norm,
        schedule.accumulate,
        schedule.seed,
        read_every(config.runtime.checkpoint_every, ranks.device),
    )
    folder = RunFolder(output, config.runtime.keep_checkpoints)
    terms = terms_of(config.model.pretrained)
    load = _loader(config, train_split, ranks)
    return Run(config, folder, ranks, train_split, val, state, settings, load, steps, terms)


def read_every(checkpoint_every: int, device: torch.device) -> int:
    """Steps whose values are read together: 1 on a CPU, more on a GPU, which then works on without waiting.

    They divide the steps between checkpoints, so that each checkpoint is of checked weights.
    """
    return 1 if device.type == "cpu" else math.gcd(GPU_READ_EVERY, checkpoint_every)


def restore(run: Run, *, accept_changes: bool) -> None:
    """Put a run where its last checkpoint was written.

    Raises:
        ConfigError: The configuration or the training split is another, and changes are not accepted.
    """
    content = check_resumable(run.folder.path / LAST, run.config, run.train, accept_changes=accept_changes)
    load_training_state(run.state, content)
    run.log, run.best_miou = list(content["training"]["log"]), float(content["training"]["best_miou"])


def _start_from_views(run: Run) -> None:
    """Fit the first weights of Feature Reconstruction to the views of the first steps."""
    parts = START_STEPS * run.config.schedule.accumulate
    device, model = run.ranks.device, run.state.model.config
    images = (normalise(batch.to(device), model) for batch, _ in _batches(run, 0, slice(parts)))
    start_at_principal_directions(run.state, images, run.ranks, seed=run.config.schedule.seed)


def _introduce(run: Run) -> None:
    """Log the run's plan and expected time, and warn of what it cannot learn or measure.

    Raises:
        ConfigError: No pixel to learn from has a label.
    """
    found = list(warnings(run.train, run.val)) if run.ranks.is_first else []
    if run.ranks.is_first:
        logger.info(overview(run.config, run.train, run.val, run.steps_per_epoch, run.terms))
    cost = _measure(run) if run.config.runtime.timed_steps else None
    if not run.ranks.is_first:
        return
    if cost is not None:
        steps = run.config.schedule.epochs * run.steps_per_epoch - run.state.step
        own = -(-len(run.val) // run.ranks.world_size)
        done = sum("val_miou" in entry for entry in run.log)
        logger.info(cost_text(run.config, cost, steps=steps, val_images=own, evaluated=done))
    for text in found:
        logger.warning("warning: %s", text)


def _measure(run: Run) -> Cost | None:
    """The cost of steps and evaluations on this machine; None if no step is left to do."""
    epoch = run.state.step // run.steps_per_epoch
    if epoch >= run.config.schedule.epochs:
        return None
    done = (run.state.step - epoch * run.steps_per_epoch) * run.config.schedule.accumulate
    parts = run.config.runtime.timed_steps * run.config.schedule.accumulate
    step_s = time_steps(run.state, _batches(run, epoch, slice(done, done + parts)), run.settings, run.ranks)
    image_s = time_image(_predictor(run), run.val)
    return Cost(step_s, image_s, peak_memory_bytes(run.ranks.device))


def _conclude(run: Run) -> None:
    """Write the report, and log the run's result and the next command."""
    logger.info("mIoU on val: %s", best_text(best_entry(run.log)))
    if run.config.runtime.report:
        logger.info("report: %s", report_run(run.folder.path, run.val, device=run.ranks.device))
    folder, target = run.folder.path, Path("models") / run.folder.path.resolve().name
    logger.info("next: %s", shlex.join(["ecenet-export", str(folder), "-o", str(target)]))


def _train_epochs(run: Run, stop: StopRequest) -> None:
    config, ranks = run.config, run.ranks
    epochs, first = config.schedule.epochs, run.state.step // run.steps_per_epoch
    progress = Progress(
        epochs, run.steps_per_epoch, images=config.schedule.batch_size, done=run.state.step, silent=not ranks.is_first
    )
    with closing(_Events(run)) as events:
        for epoch in range(first, epochs):
            if is_exhausted(run.log, config.runtime.patience):
                logger.info("ends early: no better mIoU in the last %s", plural(config.runtime.patience, "evaluation"))
                break
            with progress.epoch(epoch):
                _train_epoch(run, epoch, progress, events, stop)
            due = (epoch + 1) % config.runtime.evaluate_every == 0 or epoch + 1 == epochs
            scores = _evaluate(run, events) if due else None
            _end_epoch(run, epoch, progress, scores)
            if epoch + 1 < epochs and _asked_to_stop(run, stop):
                raise _stopped(run, stop)


def _train_epoch(run: Run, epoch: int, progress: Progress, events: _Events, stop: StopRequest) -> None:
    """The steps of an epoch that are not done yet, with the checkpoints between them."""
    every = run.config.runtime.checkpoint_every
    for steps in train_steps(run.state, _remaining_batches(run, epoch), run.settings, run.ranks):
        for values in steps:
            progress(values.losses, values.lr)
            events.step(values, progress.images_per_s)
        if run.state.step % run.steps_per_epoch == 0:
            continue  # what ends an epoch comes before its checkpoint
        stopping = _asked_to_stop(run, stop)
        if stopping or (every and run.state.step % every == 0):
            _save(run, {})
        if stopping:
            raise _stopped(run, stop)


def _asked_to_stop(run: Run, stop: StopRequest) -> bool:
    """Ask all ranks whether any was asked to stop; all get the same answer."""
    return bool(run.ranks.total(torch.tensor(float(stop.is_set()), device=run.ranks.device)))


def _stopped(run: Run, stop: StopRequest) -> StoppedError:
    return StoppedError(f"stopped after step {run.state.step}, as asked; --resume continues from there", stop.number)


def _remaining_batches(run: Run, epoch: int) -> DataLoader[Batch]:
    """The batches of this rank in an epoch, from the first step that is not done."""
    done = (run.state.step - epoch * run.steps_per_epoch) * run.config.schedule.accumulate
    return _batches(run, epoch, slice(done, None))


def _batches(run: Run, epoch: int, part: slice) -> DataLoader[Batch]:
    """Some of the batches of this rank in an epoch."""
    schedule = run.config.schedule
    order = epoch_order(schedule.seed, epoch, len(run.train))
    batches = rank_batches(order, batch_size=schedule.batch_size, parts=schedule.accumulate, ranks=run.ranks)
    return run.load(epoch, batches[part])


def _loader(config: TrainConfig, dataset: SegmentationDataset, ranks: Ranks) -> BatchLoader:
    data, workers = config.data, config.runtime.workers
    views_at = partial(AugmentedViews, dataset, augmentation(data), config.schedule.seed, class_mix=data.class_mix)
    if workers is None:
        workers = default_workers(ranks.device, cpus=available_cpus(), local_ranks=ranks_of_node())
    return BatchLoader(views_at, workers, pin_memory=ranks.device.type == "cuda")


def _evaluate(run: Run, events: _Events) -> Scores:
    """Scores of the averaged weights on val; each rank takes every n-th image, and the counts add up."""
    own = range(run.ranks.rank, len(run.val), run.ranks.world_size)
    samples = FixedExamples(len(run.val.classes), [own[place] for place in spread_indices(len(own))])
    counts = evaluate(_predictor(run), run.val, indices=own, on_image=samples)
    scores = Counts(run.ranks.total_counts(counts.confusion)).scores()
    events.evaluation(scores, samples.examples)
    return scores


def _predictor(run: Run) -> Predictor:
    """Prediction by the averaged weights."""
    data = run.config.data
    network = Network(pytorch_infer(run.state.average.model), data.input_size)
    return network_predictor(network, validation_mode(data))


def _end_epoch(run: Run, epoch: int, progress: Progress, scores: Scores | None) -> None:
    """Log the epoch and write its checkpoint, and the best if this one is."""
    state = run.state
    means = (state.epoch_sums / run.steps_per_epoch).tolist()
    figures = _figures(scores)
    entry: dict[str, Any] = {"epoch": epoch + 1, "step": state.step}
    entry |= {f"loss_{name}": value for name, value in zip(Losses._fields, means, strict=True)}
    entry |= {"lr": float(state.scheduler.get_last_lr()[0]), "seconds": round(progress.seconds, 1), **figures}
    if scores is not None:
        entry["class_iou"] = [None if np.isnan(iou) else round(float(iou), 4) for iou in scores.class_iou]
    run.log.append(entry)
    state.epoch_sums.zero_()
    best = scores is not None and scores.miou > run.best_miou
    if best and scores is not None:
        run.best_miou = scores.miou
    if run.ranks.is_first:
        if best:
            run.folder.save_best(state.model.config, state.average.model.state_dict(), _entries(run, figures))
        _save(run, figures)
        run.folder.write_log(run.log)
        if scores is not None:
            logger.info(evaluation_text(run.log, run.config.schedule.epochs))


def _save(run: Run, figures: dict[str, float]) -> None:
    if run.ranks.is_first:
        training = training_state(run.state) | {"log": run.log, "best_miou": run.best_miou}
        weights = run.state.average.model.state_dict()
        run.folder.save(run.state.model.config, weights, training, _entries(run, figures))


def _entries(run: Run, figures: dict[str, float]) -> dict[str, Any]:
    return {
        "architecture": run.config.model.name,
        "dataset": run.val.name,
        "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in run.train.classes],
        "input_size": list(run.config.data.input_size),
        "train_config": run.config.as_dict(),
        "terms": run.terms,
        "train_images": len(run.train),
        "epochs_done": run.state.step // run.steps_per_epoch,
        "steps_done": run.state.step,
        "metrics": figures,
    }


def _figures(scores: Scores | None) -> dict[str, float]:
    """The means of an evaluation; none where no pixel of val has a label, since JSON has no NaN."""
    if scores is None or np.isnan(scores.miou):
        return {}
    return {"val_miou": scores.miou, "val_accuracy": scores.accuracy, "val_mean_accuracy": scores.mean_accuracy}


class _Events:
    """Events of a run for TensorBoard and the callback; nothing where they are off, or on ranks but the first."""

    def __init__(self, run: Run) -> None:
        self._run, self._board = run, None
        self._on_log = run.on_log if run.ranks.is_first else None
        if run.config.runtime.tensorboard and run.ranks.is_first:
            self._board = TensorBoard(run.folder.path / "tensorboard", resume_step=run.state.step)

    def step(self, values: StepValues, images_per_s: float) -> None:
        terms = {name: float(value) for name, value in values.losses._asdict().items()}
        if self._board is not None:
            self._board.step(values.step, terms, values.lr, values.norm, images_per_s)
        if self._on_log is not None:
            self._on_log(values.step, step_values(terms, values.lr, values.norm, images_per_s))

    def evaluation(self, scores: Scores, samples: list[Example]) -> None:
        if self._board is not None:
            self._board.evaluation(self._run.state.step, scores, self._run.val.classes, samples)
        if self._on_log is not None:
            self._on_log(self._run.state.step, evaluation_values(scores, self._run.val.classes))

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
