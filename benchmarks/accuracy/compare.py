"""Train ECENet, rival heads on its backbone and ECENet with parts taken out, all by one recipe: see README.md.

    python -m benchmarks.accuracy.compare --data DATA/camvid --threads 1

Finished runs are skipped, so the same command goes on after a stop; two processes on one folder share the runs out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.flops import count_flops
from benchmarks.accuracy.recipe import Recipe, open_half_resolution
from benchmarks.accuracy.runs import FOLDER, RunError, is_finished, lock, run_path, write_run
from benchmarks.accuracy.variants import MODEL, VARIANTS, build_variant, parameters
from trainer.datasets import DatasetError, SegmentationDataset
from trainer.distributed import Ranks, rank_batches
from trainer.engine import AugmentedViews, DivergedError, StepSettings, TrainingState, load_batches, train_steps
from trainer.losses import Losses, balanced_class_weights, class_pixels
from trainer.memory import keep_freed_memory
from trainer.model.ecenet import ECENet
from trainer.precision import keep_depthwise_in_float
from trainer.prediction.evaluation import evaluate
from trainer.prediction.predictor import network_predictor
from trainer.prediction.pytorch import pytorch_network
from trainer.schedule import MovingAverage, build_optimizer
from trainer.weights.pretrained import PretrainedError, load_imagenet_weights

LOGGED = 40
FULL_SIZE = (352, 480)


@dataclass(slots=True)
class Curve:
    """Mean loss terms of ``LOGGED`` stretches of equal length, and the progress on standard error."""

    name: str
    steps: int
    entries: list[dict[str, float]] = field(default_factory=list)
    _recent: list[list[float]] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)
    _done: int = 0

    def __call__(self, losses: Losses) -> None:
        self._recent.append([float(term) for term in losses])
        self._done += 1
        if len(self._recent) == max(self.steps // LOGGED, 1) or self._done == self.steps:
            means = np.mean(self._recent, axis=0).round(4).tolist()
            self.entries.append({"step": self._done, **dict(zip(Losses._fields, means, strict=True))})
            self._recent.clear()
            rate = (time.perf_counter() - self._start) / self._done
            print(f"{self.name}: {self.entries[-1]}, {rate:.3f} s per step", file=sys.stderr, flush=True)


def initial_state(variant: str, num_classes: int, recipe: Recipe, seed: int) -> TrainingState:
    """A variant with ImageNet's weights in its backbone, its optimiser and schedule."""
    torch.manual_seed(seed)
    model = build_variant(variant, num_classes)
    load_imagenet_weights(model.backbone, model.config.backbone)  # type: ignore[arg-type]
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = MovingAverage(model, recipe.ema_decay)
    keep_depthwise_in_float(model)
    optimizer, scheduler = build_optimizer(
        model,
        lr=recipe.lr,
        head_lr_multiple=recipe.head_lr_multiple,
        weight_decay=recipe.weight_decay,
        total_steps=recipe.steps,
        warmup_steps=min(recipe.warmup_steps, recipe.steps // 2),
        power=recipe.power,
    )
    return TrainingState(model, average, optimizer, scheduler)


def train(state: TrainingState, dataset: SegmentationDataset, variant: str, recipe: Recipe, seed: int) -> Curve:
    """Train for the recipe's steps; the same seed gives every variant the same views in the same order."""
    curve = Curve(f"{variant}, seed {seed}", recipe.steps)
    ranks = Ranks(0, 1, torch.device("cpu"))
    settings = StepSettings(
        VARIANTS[variant].loss,
        balanced_class_weights(class_pixels(dataset)),
        recipe.precision,
        recipe.clip_norm,
        seed=seed,
    )
    for epoch in count():
        views = AugmentedViews(dataset, recipe.augmentation(), seed, epoch)
        batches = rank_batches(views.order(), batch_size=recipe.batch_size, parts=1, ranks=ranks)
        loader = load_batches(views, batches[: recipe.steps - state.step], workers=0)
        for losses, _ in train_steps(state, loader, settings, ranks):
            curve(losses)
        if state.step == recipe.steps:
            break
    return curve


def run(variant: str, seed: int, recipe: Recipe, data: Path, commit: str) -> dict[str, Any]:
    """Train and evaluate a variant; gives what its file holds."""
    start = time.perf_counter()
    training, validation = (open_half_resolution(data, split) for split in ("train", "val"))
    state = initial_state(variant, len(training.classes), recipe, seed)
    curve = train(state, training, variant, recipe, seed)
    trained = time.perf_counter()
    model = state.average.model
    scores = evaluate(network_predictor(pytorch_network(model, recipe.input_size)), validation).scores()
    names = [info.name for info in training.classes]
    return {
        "config": config(variant, seed, recipe),
        "miou": scores.miou,
        "accuracy": scores.accuracy,
        "class_iou": dict(zip(names, scores.class_iou.round(4).tolist(), strict=True)),
        **cost(model, recipe),
        "seconds": {"training": round(trained - start, 1), "evaluation": round(time.perf_counter() - trained, 1)},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit,
        "losses": curve.entries,
    }


def config(variant: str, seed: int, recipe: Recipe) -> dict[str, Any]:
    """All that decides the result of a run."""
    loss = VARIANTS[variant].loss
    weights = {name: getattr(loss, name) for name in ("cross_entropy", "auxiliary", "focal", "dice", "diversity")}
    return {
        "variant": variant,
        "seed": seed,
        "model": MODEL,
        **recipe.as_dict(),
        "class_balance": loss.class_balance,
        "loss_weights": weights,
    }


def cost(model: ECENet, recipe: Recipe) -> dict[str, Any]:
    """Parameters, and operations at the evaluated input and at the full one."""
    return {
        "parameters": parameters(model),
        "gflops": {f"{h}x{w}": round(count_flops(model, (h, w)) / 1e9, 3) for h, w in (recipe.input_size, FULL_SIZE)},
    }


def run_missing(
    variants: Sequence[str], seeds: Sequence[int], recipe: Recipe, *, data: Path, folder: Path, commit: str
) -> None:
    """Every run that is neither finished nor in another process's hands, first seed first."""
    for seed, variant in product(seeds, variants):
        path = run_path(folder, variant, seed)
        with lock(path) as free:
            if not free:
                print(f"{path.name}: another process is at it", file=sys.stderr)
            elif is_finished(path, config(variant, seed, recipe)):
                print(f"{path.name}: finished before", file=sys.stderr)
            else:
                write_run(path, run(variant, seed, recipe, data, commit))


def head_commit() -> str:
    """The commit of the code, with ``+`` where files differ from it; empty outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=12",
        "--exclude=*",
        "--dirty=+",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = _parser().parse_args(arguments)
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        run_missing(
            args.variants,
            args.seeds,
            Recipe(args.steps),
            data=args.data,
            folder=args.folder,
            commit=args.commit or head_commit(),
        )
    except (RunError, DatasetError, PretrainedError, DivergedError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], metavar="SEED")
    parser.add_argument("--steps", type=int, default=450, help="steps of every run (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: all")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the runs are written (default: %(default)s)")
    parser.add_argument("--commit", help="commit of the code, where git cannot tell it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
