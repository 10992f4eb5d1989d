"""``ecenet-train``: train ECENet on a dataset, with checkpoints from which it resumes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from trainer.checkpoint import load_model, read_checkpoint, read_entries, save_checkpoint
from trainer.config import ConfigError, TrainConfig, load_config
from trainer.datasets import DatasetError, InMemory, SegmentationDataset, open_dataset
from trainer.engine import (
    PRECISIONS,
    AugmentedViews,
    DivergedError,
    TrainingState,
    epoch_batches,
    evaluate,
    torch_predictor,
    train_one_epoch,
)
from trainer.losses import Losses, balanced_class_weights
from trainer.metrics import Scores
from trainer.model.backbone import ConvBackbone
from trainer.model.ecenet import ECENet, build_model
from trainer.precision import keep_depthwise_in_float
from trainer.pretrained import PretrainedError, load_imagenet_weights
from trainer.schedule import MovingAverage, lr_factor, parameter_groups
from trainer.transforms import Augmentation

LAST, BEST, LOG = "last.pt", "best.pt", "log.jsonl"

EPILOG = """example:
  ecenet-train camvid_lite0 --data data/camvid --output runs/camvid
  ecenet-train camvid_lite0 --data data/camvid --output runs/camvid --resume
  ecenet-train camvid_lite0 --data data/camvid --output runs/short --set schedule.epochs=10 --set data.jitter=0.2
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = _parser().parse_args(arguments)
    try:
        if args.threads:
            torch.set_num_threads(args.threads)
        run(load_config(args.config, args.set), args.data, args.output, resume=args.resume)
    except (ConfigError, DatasetError, PretrainedError, DivergedError, ValueError, OSError) as error:
        print(f"ecenet-train: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def run(config: TrainConfig, data: Path, output: Path, *, resume: bool) -> None:
    """Train from the start, or on from ``last.pt``; writes ``last.pt``, ``best.pt`` and ``log.jsonl`` into ``output``.

    Raises:
        ConfigError: ``output`` holds a run already and ``resume`` is off, or the other way round.
        DivergedError: The loss became NaN or infinite.
    """
    last = output / LAST
    if last.exists() != resume:
        raise ConfigError(f"{last} exists already; add --resume" if last.exists() else f"there is no {last} to resume")
    train, val = (InMemory(open_dataset(config.data.dataset, data, split)) for split in ("train", "val"))
    schedule = config.schedule
    _check(config, len(train))
    state = build_state(config, len(train.classes), steps_per_epoch=len(train) // schedule.batch_size)
    start = restore(state, last) if resume else 0
    class_weights = balanced_class_weights(_pixels(train)) if config.loss.class_balance else None
    predict = torch_predictor(state.average.model, config.data.input_size)
    for epoch in range(start, schedule.epochs):
        losses = _train_epoch(config, state, train, class_weights, epoch)
        due = (epoch + 1) % schedule.evaluate_every == 0 or epoch + 1 == schedule.epochs
        scores = evaluate(predict, val) if due else None
        _save(output, state, _entries(config, val, state, epoch + 1, scores))
        _log(output / LOG, epoch + 1, losses, scores)


def _train_epoch(
    config: TrainConfig,
    state: TrainingState,
    dataset: SegmentationDataset,
    class_weights: torch.Tensor | None,
    epoch: int,
) -> dict[str, float]:
    """One epoch with its progress bar; gives the mean of each loss term."""
    data, schedule = config.data, config.schedule
    augmentation = Augmentation(data.input_size, data.crop_size, data.scale, data.jitter)
    views = AugmentedViews(dataset, augmentation, schedule.seed, epoch)
    batches = epoch_batches(views, schedule.batch_size, schedule.workers)
    with _Progress(epoch, schedule.epochs, len(batches)) as progress:
        train_one_epoch(
            state,
            batches,
            loss_weights=config.loss,
            class_weights=class_weights,
            precision=schedule.precision,
            clip_norm=schedule.clip_norm,
            on_step=progress,
        )
    return progress.mean()


def _save(output: Path, state: TrainingState, entries: dict[str, Any]) -> None:
    """Write the last checkpoint, and the best if this one is."""
    weights = state.average.model.state_dict()
    save_checkpoint(output / LAST, state.model.config, weights, training=_training_state(state), **entries)
    miou = entries["metrics"].get("val_miou")
    if miou is not None and miou > _best_miou(output):
        save_checkpoint(output / BEST, state.model.config, weights, **entries)


def _check(config: TrainConfig, images: int) -> None:
    if config.schedule.precision not in PRECISIONS:
        raise ConfigError(f"schedule.precision is {config.schedule.precision!r}, expected one of {PRECISIONS}")
    if not 1 <= config.schedule.batch_size <= images:
        raise ConfigError(f"schedule.batch_size is {config.schedule.batch_size}, expected 1 to the {images} images")


def build_state(config: TrainConfig, num_classes: int, *, steps_per_epoch: int) -> TrainingState:
    """The network with its first weights, its moving average, the optimiser and the learning rate's schedule."""
    schedule = config.schedule
    torch.manual_seed(schedule.seed)
    model = _initial_model(config, num_classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = MovingAverage(model, schedule.ema_decay)
    keep_depthwise_in_float(model)
    groups = parameter_groups(
        model, lr=schedule.lr, head_lr_multiple=schedule.head_lr_multiple, weight_decay=schedule.weight_decay
    )
    optimizer = torch.optim.AdamW(groups)
    total, warmup = schedule.epochs * steps_per_epoch, int(schedule.warmup_epochs * steps_per_epoch)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, total_steps=total, warmup_steps=warmup, power=schedule.power)
    )
    return TrainingState(model, average, optimizer, scheduler)


def restore(state: TrainingState, path: Path) -> int:
    """Restore a run from its last checkpoint; gives the epochs done."""
    content = read_checkpoint(path)
    training = content["training"]
    state.average.model.load_state_dict(content["weights"])
    state.model.load_state_dict(training["model"])
    state.optimizer.load_state_dict(training["optimizer"])
    state.scheduler.load_state_dict(training["scheduler"])
    state.step = training["step"]
    torch.set_rng_state(training["rng"])
    return int(content["epochs_done"])


def _initial_model(config: TrainConfig, num_classes: int) -> ECENet:
    source = config.model.pretrained
    model = build_model(config.model.name, num_classes)
    if source == "imagenet":
        if not isinstance(model.backbone, ConvBackbone):
            raise PretrainedError(f"there are no packaged ImageNet weights for {config.model.name}; name a checkpoint")
        load_imagenet_weights(model.backbone, model.config.backbone)
    elif source != "none":
        model.load_state_dict(load_model(Path(source)).state_dict())
    return model


def _training_state(state: TrainingState) -> dict[str, Any]:
    return {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "step": state.step,
        "rng": torch.get_rng_state(),
    }


def _entries(
    config: TrainConfig, dataset: SegmentationDataset, state: TrainingState, epochs_done: int, scores: Scores | None
) -> dict[str, Any]:
    return {
        "architecture": config.model.name,
        "dataset": dataset.name,
        "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in dataset.classes],
        "input_size": list(config.data.input_size),
        "train_config": config.as_dict(),
        "epochs_done": epochs_done,
        "steps_done": state.step,
        "metrics": _figures(scores),
    }


def _figures(scores: Scores | None) -> dict[str, float]:
    if scores is None:
        return {}
    return {"val_miou": scores.miou, "val_accuracy": scores.accuracy, "val_mean_accuracy": scores.mean_accuracy}


def _pixels(dataset: SegmentationDataset) -> torch.Tensor:
    counts = np.zeros(256, np.int64)
    for index in range(len(dataset)):
        counts += np.bincount(dataset[index].labels.ravel(), minlength=256)
    return torch.from_numpy(counts[: len(dataset.classes)]).float()


def _best_miou(output: Path) -> float:
    path = output / BEST
    return float(read_entries(path)["metrics"]["val_miou"]) if path.exists() else -1.0


def _log(path: Path, epoch: int, losses: dict[str, float], scores: Scores | None) -> None:
    entry: dict[str, Any] = {"epoch": epoch, **losses, **_figures(scores)}
    if scores:
        entry |= {"class_iou": [round(float(value), 4) for value in scores.class_iou]}
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


class _Progress:
    """A bar per epoch with the rate, the time that the whole run has left, and the epoch's mean losses."""

    def __init__(self, epoch: int, epochs: int, steps: int) -> None:
        self._bar = tqdm(
            total=epochs * steps, initial=epoch * steps, desc=f"epoch {epoch + 1}/{epochs}", unit="step", mininterval=2
        )
        self._sums = np.zeros(len(Losses._fields))
        self._steps = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, losses: Losses) -> None:
        self._sums += [float(term) for term in losses]
        self._steps += 1
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in self.mean().items()}, refresh=False)
        self._bar.update()

    def mean(self) -> dict[str, float]:
        return {
            f"loss_{name}": float(v) for name, v in zip(Losses._fields, self._sums / max(self._steps, 1), strict=True)
        }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecenet-train",
        description="Train ECENet; each epoch leaves a checkpoint from which --resume goes on.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="a TOML file, or the name of one that comes with the package")
    parser.add_argument("--data", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the log")
    parser.add_argument("--resume", action="store_true", help="go on from last.pt in the output folder")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one setting")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the network; default: all")
    return parser


if __name__ == "__main__":
    sys.exit(main())
