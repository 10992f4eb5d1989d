"""One run of the comparison from its first step to its file: training, evaluation, cost."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.data import Splits
from benchmarks.accuracy.flops import count_flops
from benchmarks.accuracy.recipe import Recipe
from benchmarks.accuracy.runs import is_finished, lock, write_run
from benchmarks.accuracy.training import initial_state, train
from benchmarks.accuracy.variants import MODEL, VARIANTS, parameters
from trainer.model.ecenet import ECENet
from trainer.prediction.evaluation import evaluate
from trainer.prediction.predictor import network_predictor
from trainer.prediction.pytorch import pytorch_network

FULL_SIZE = (352, 480)


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that decides the result of a run, and its file."""

    variant: str
    seed: int
    recipe: Recipe
    path: Path

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint that continues a stopped run; a finished run has none."""
        return self.path.with_name(f".{self.path.stem}.pt")

    def config(self) -> dict[str, Any]:
        """As the run's file holds it."""
        variant = VARIANTS[self.variant]
        loss = variant.loss
        names = ("cross_entropy", "auxiliary", "focal", "dice", "diversity", "diversity_form", "presence")
        return {
            "variant": self.variant,
            "seed": self.seed,
            "model": MODEL,
            **variant.recipe(self.recipe).as_dict(),
            "class_balance": loss.class_balance,
            "loss_weights": {name: getattr(loss, name) for name in names},
            "bilinear_start": variant.bilinear_start,
            "principal_start": variant.principal_start,
        }


def run_missing(experiments: Iterable[Experiment], splits: Splits, *, commit: str) -> None:
    """Every run that is neither finished nor in another process's hands, in turn; one that was stopped resumes."""
    for experiment in experiments:
        path = experiment.path
        with lock(path) as free:
            if not free:
                print(f"{path.name}: another process is at it", file=sys.stderr)
            elif is_finished(path, experiment.config()):
                print(f"{path.name}: finished before", file=sys.stderr)
            else:
                write_run(path, run(experiment, splits, commit))
                experiment.checkpoint.unlink(missing_ok=True)


def run(experiment: Experiment, splits: Splits, commit: str) -> dict[str, Any]:
    """Train and evaluate; gives the content of the run's file."""
    training, validation = splits
    recipe = experiment.recipe
    state = initial_state(experiment.variant, training, recipe, experiment.seed)
    curve = train(state, training, experiment.variant, recipe, seed=experiment.seed, checkpoint=experiment.checkpoint)
    trained = time.perf_counter()
    model = state.average.model
    scores = evaluate(network_predictor(pytorch_network(model, recipe.input_size)), validation, boundary=True).scores()
    names = [info.name for info in training.classes]
    return {
        "config": experiment.config(),
        "miou": scores.miou,
        "boundary_miou": scores.boundary_miou,
        "accuracy": scores.accuracy,
        "class_iou": {name: _rounded(iou) for name, iou in zip(names, scores.class_iou.tolist(), strict=True)},
        **cost(model, recipe),
        "seconds": {"training": round(curve.seconds, 1), "evaluation": round(time.perf_counter() - trained, 1)},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit,
        "losses": curve.entries,
    }


def _rounded(iou: float) -> float | None:
    """None for a class that neither labels nor predictions have."""
    return None if math.isnan(iou) else round(iou, 4)


def cost(model: ECENet, recipe: Recipe) -> dict[str, Any]:
    """Parameters, and operations at the evaluated input and at the full one."""
    return {
        "parameters": parameters(model),
        "gflops": {f"{h}x{w}": round(count_flops(model, (h, w)) / 1e9, 3) for h, w in (recipe.input_size, FULL_SIZE)},
    }


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
