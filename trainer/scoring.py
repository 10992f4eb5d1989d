"""Scores of a model on a labelled dataset: evaluated, as a table, as JSON, and in a model's manifest."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.model_directory.files import named_in_errors
from service.model_directory.manifest import ClassInfo, ManifestError, read_manifest, write_manifest
from trainer.datasets import SegmentationDataset, choose_dataset, open_dataset
from trainer.datasets.mapped import Mapped, named_map
from trainer.metrics import Scores
from trainer.prediction.evaluation import evaluate
from trainer.prediction.mode import SERVICE_MODE, PredictionMode, PredictionModeError
from trainer.prediction.model import ModelError, OpenModel
from trainer.prediction.open_model import open_model


def score(args: argparse.Namespace) -> None:
    """Evaluate as the command line asks, and print the table; see ``trainer.evaluate``.

    Raises:
        ModelError, PredictionModeError, DatasetError, ManifestError, EngineError: The request cannot be met.
    """
    mode = _mode(args)
    if args.update_manifest:
        _check_update(args.model, mode, args.class_map)
    _evaluate(args, mode)


def report(scores: Scores, classes: Sequence[ClassInfo]) -> str:
    """The scores as a table, in percent: a row per class, then the means."""
    columns = {"IoU": scores.class_iou, "Acc": scores.class_accuracy}
    means = {"mIoU": scores.miou, "aAcc": scores.accuracy, "mAcc": scores.mean_accuracy}
    if scores.class_boundary_iou is not None and scores.boundary_miou is not None:
        columns["boundary"] = scores.class_boundary_iou
        means["boundary mIoU"] = scores.boundary_miou
    width = max(16, *(len(info.name) + 1 for info in classes))
    head = f"{'class':<{width}}" + "".join(f"{name:>6}" if name == "IoU" else f"{name:>9}" for name in columns)
    rows = zip(*columns.values(), strict=True)
    lines = [f"{info.name:<{width}}" + _percents(row) for info, row in zip(classes, rows, strict=True)]
    return "\n".join([head, *lines, *(f"{name:<{width}}" + _percents([value]) for name, value in means.items())])


def as_dict(scores: Scores, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """The scores for JSON, each 0..1, or None where there is none: a class that does not occur."""

    def by_name(values: NDArray[np.float64]) -> dict[str, float | None]:
        return {info.name: _number(value) for info, value in zip(classes, values, strict=True)}

    figures: dict[str, Any] = {
        "miou": _number(scores.miou),
        "accuracy": _number(scores.accuracy),
        "mean_accuracy": _number(scores.mean_accuracy),
        "class_iou": by_name(scores.class_iou),
        "class_accuracy": by_name(scores.class_accuracy),
    }
    if scores.class_boundary_iou is not None and scores.boundary_miou is not None:
        figures["boundary_miou"] = _number(scores.boundary_miou)
        figures["class_boundary_iou"] = by_name(scores.class_boundary_iou)
    return figures


def update_manifest(directory: Path, split: str, scores: Scores) -> None:
    """Write the scores into the manifest of a model directory.

    Raises:
        ManifestError: There is no score, because no pixel has a label.
    """
    if np.isnan(scores.miou):
        raise ManifestError(f"the {split} split has no labelled pixel; {directory} keeps its manifest")
    manifest = read_manifest(directory)
    figures = {
        f"{split}_miou": round(scores.miou, 4),
        f"{split}_accuracy": round(scores.accuracy, 4),
        f"{split}_mean_accuracy": round(scores.mean_accuracy, 4),
    }
    write_manifest(directory, replace(manifest, metrics={**manifest.metrics, **figures}))


def _evaluate(args: argparse.Namespace, mode: PredictionMode) -> None:
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    with open_model(args.model, mode, engine=args.engine, device=args.device) as model:
        dataset = _open_dataset(args, model)
        model.check_classes(dataset)
        began = time.perf_counter()
        with tqdm(total=len(dataset), unit="image", mininterval=1) as bar:
            counts = evaluate(model.predict, dataset, boundary=args.boundary, on_image=lambda *_: bar.update())
        seconds = time.perf_counter() - began
    scores = counts.scores()
    print(report(scores, dataset.classes))  # noqa: T201
    print(f"{len(dataset)} images of {dataset.name} {args.split} in {seconds:.1f} s")  # noqa: T201
    if args.json:
        run = {"model": args.model, "dataset": dataset.name, "class_map": args.class_map, "split": args.split}
        content = {
            **run,
            "mode": _options(mode),
            "images": len(dataset),
            "seconds": round(seconds, 3),
            **as_dict(scores, dataset.classes),
        }
        with named_in_errors(args.json):
            args.json.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if args.update_manifest:
        update_manifest(Path(args.model), args.split, scores)


def _open_dataset(args: argparse.Namespace, model: OpenModel) -> SegmentationDataset:
    """The split to score, in the model's classes where a map is asked for."""
    dataset = open_dataset(choose_dataset(args.data, args.dataset, model.dataset), args.data, args.split)
    if args.class_map is None:
        return dataset
    if model.class_names is None:
        raise ModelError("the model does not name its classes, so --class-map has nothing to map to")
    classes = [ClassInfo(index, name, (0, 0, 0)) for index, name in enumerate(model.class_names)]
    return Mapped(dataset, classes, named_map(args.class_map))


def _mode(args: argparse.Namespace) -> PredictionMode:
    return PredictionMode(
        slide=args.mode == "slide",
        crop=args.crop,
        stride=args.stride,
        short_side=args.short_side,
        scales=args.scales,
        flip=args.flip,
    )


def _check_update(model: str, mode: PredictionMode, class_map: str | None) -> None:
    """Refuse an update of a manifest that could not be written after the evaluation."""
    if not Path(model).is_dir():
        raise ManifestError(f"{model} is not a model directory; --update-manifest needs one")
    if class_map is not None:
        raise ManifestError("--update-manifest states scores of the model's own classes: leave out --class-map")
    if mode != SERVICE_MODE:
        raise PredictionModeError("--update-manifest states what the service answers: whole images, one scale, no flip")


def _options(mode: PredictionMode) -> dict[str, Any]:
    """A mode for JSON, as it was requested."""
    return {
        "mode": "slide" if mode.slide else "whole",
        "crop": mode.crop,
        "stride": mode.stride,
        "short_side": mode.short_side,
        "scales": mode.scales,
        "flip": mode.flip,
    }


def _percents(values: Iterable[float]) -> str:
    return "".join(f"{100 * value:6.2f}" if index == 0 else f"{100 * value:9.2f}" for index, value in enumerate(values))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
