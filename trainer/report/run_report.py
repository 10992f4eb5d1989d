"""The report of a training run: one HTML file that needs nothing beside it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from service.model_directory.files import write_whole
from service.model_directory.manifest import ClassInfo
from trainer.checkpoint import class_names
from trainer.config import parse_config
from trainer.datasets import IGNORE_INDEX, SegmentationDataset, choose_dataset, open_dataset
from trainer.metrics import Counts
from trainer.model.ecenet import ECENet
from trainer.prediction.evaluation import evaluate
from trainer.prediction.mode import validation_mode
from trainer.prediction.model import ModelError, check_classes
from trainer.prediction.predictor import network_predictor
from trainer.prediction.pytorch import pytorch_network
from trainer.report.examples import Example, ExampleCollector
from trainer.report.images import WRONG_COLOR
from trainer.report.page import (
    class_bars,
    confused_pairs,
    curves,
    label_shares,
    matrix_picture,
    pictures,
    score_curves,
    settings,
    shown_ids,
    tiles,
)
from trainer.report.rendering import render
from trainer.run_folder import BEST, LOG, data_of
from trainer.weights.network import load_model_and_entries

REPORT = "report.html"
Progress = Callable[[Iterable[int]], Iterable[int]]
"""Wraps the indices of images, as tqdm does."""

PACKAGES = ("ecenet", "torch", "timm", "numpy", "pillow")


class ReportError(ValueError):
    """A run that cannot be reported on; the text names the file and the missing part."""


def report_run(
    run: Path, dataset: SegmentationDataset, *, split: str = "val", device: str | torch.device = "cpu"
) -> Path:
    """Evaluate the best checkpoint of a run on a split of its dataset, and write ``report.html`` into its folder.

    The evaluation is one pass over each image stretched to the input size, as the service does it.

    Args:
        run: The run's folder, with ``log.jsonl`` and ``best.pt``.
        dataset: What to evaluate on; its classes must be those of the checkpoint.
        split: The split's name, for the title.
        device: Where to run the network.

    Returns:
        The report's path.

    Raises:
        ReportError: The run has no log or no evaluation, or fits another dataset.
        CheckpointError: ``best.pt`` cannot be read.
    """
    model, entries = _load_best(run)
    path = run / REPORT
    _report(run, (model.to(device), entries), dataset, path, split=split, progress=iter)
    return path


def report_folder(run: Path, data: Path | None, split: str, output: Path | None, progress: Progress) -> Path:
    """Evaluate the best checkpoint of a run on a split of a folder, and write the report; gives its path.

    Args:
        run: The run's folder.
        data: Folder of the dataset; the one that the run was trained on if None.
        split: The split to evaluate on.
        output: Where to; ``report.html`` in the run's folder if None.
        progress: Wraps the indices of the images.

    Raises:
        ReportError, CheckpointError, DatasetError: The run lacks something, or the data does not fit.
    """
    model, entries = _load_best(run)
    root = data_of(run) if data is None else data
    if root is None:
        raise ReportError(f"{run} does not state the folder of its data; name it with --data")
    dataset = open_dataset(choose_dataset(root, stated=entries["dataset"]), root, split)
    best = (model.to("cuda" if torch.cuda.is_available() else "cpu"), entries)
    path = output or run / REPORT
    _report(run, best, dataset, path, split=split, progress=progress)
    return path


def write_report(
    path: Path,
    *,
    title: str,
    config: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    classes: Sequence[ClassInfo],
    counts: Counts,
    best: Sequence[Example],
    worst: Sequence[Example],
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write a report as one HTML file: no scripts, nothing to load, light and dark. Equal input gives equal bytes.

    Args:
        path: Where to; a reader sees the old file or the whole new one.
        title: The heading.
        config: The whole configuration, a table per section.
        log: The entries of ``log.jsonl``, see ``read_log``.
        classes: The classes in the order of their ids.
        counts: The evaluation that figures, bars and matrix show.
        best: Images that went best, best first.
        worst: Images that went worst, worst first.
        facts: What else to show beside mIoU, by its unit or name, e.g. ``{"parameters": "3.65 M"}``.
    """
    scores, shares, ids = counts.scores(), label_shares(counts.confusion), shown_ids([*best, *worst])
    text = render(
        "report.html",
        title=title,
        tiles=tiles(scores, facts or {}),
        curves=curves(log),
        has_scores=bool(score_curves(log)),
        bars=class_bars(classes, counts.confusion, scores),
        classes=classes,
        shares=shares.tolist(),
        picture=matrix_picture(shares),
        pairs=confused_pairs(classes, counts.confusion, shares),
        shown_classes=[info for info in classes if info.id in ids],
        has_void=IGNORE_INDEX in ids,
        wrong_color=WRONG_COLOR,
        examples={"Best": pictures(best, classes), "Worst": pictures(worst, classes)},
        config=settings(config),
        versions=_versions(),
    )
    write_whole(path, text.encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a run's ``log.jsonl`` by epoch; of an epoch that was done twice, the last.

    Raises:
        ReportError: The file is missing or empty, or a line is not an entry; the text names the line.
    """
    if not path.is_file():
        raise ReportError(f"{path} does not exist; {path.parent} holds no training run")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = [_parse_entry(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise ReportError(f"{path} is empty: no epoch has ended yet")
    by_epoch = {entry["epoch"]: entry for entry in entries}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _parse_entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ReportError(f"{path} line {number} is not JSON: {error}; the line is {line[:60]!r}") from error
    if not isinstance(entry, dict) or type(entry.get("epoch")) is not int:
        raise ReportError(f"{path} line {number} is {line[:60]!r}, expected an object with a whole number 'epoch'")
    for key, value in entry.items():
        shown = key in {"lr", "seconds"} or key.startswith(("loss_", "val_"))
        if shown and not _is_figure(value):
            raise ReportError(f"{path} line {number} has {key} {value!r}, expected a number")
        if key == "class_iou" and not (isinstance(value, list) and all(map(_is_figure, value))):
            raise ReportError(f"{path} line {number} has {key} {str(value)[:60]}, expected a list of numbers")
    return entry


def _is_figure(value: object) -> bool:
    return value is None or type(value) in {int, float}


def _load_best(run: Path) -> tuple[ECENet, dict[str, Any]]:
    """The best network of a run, and its checkpoint's other entries."""
    path = run / BEST
    if not run.is_dir():
        raise ReportError(f"{run} is not a folder of a training run")
    if not path.is_file():
        raise ReportError(f"{path} does not exist: the run has not been evaluated yet")
    model, entries = load_model_and_entries(path)
    missing = [key for key in ("dataset", "input_size") if key not in entries]
    if missing or not isinstance(model, ECENet):
        raise ReportError(f"{path} does not state its {' and '.join(missing)}; ecenet-train has not written it")
    return model, entries


def _report(
    run: Path,
    best: tuple[ECENet, dict[str, Any]],
    dataset: SegmentationDataset,
    path: Path,
    *,
    split: str,
    progress: Progress,
) -> None:
    model, entries = best
    log = read_log(run / LOG)
    try:
        check_classes(model.config.num_classes, class_names(entries), dataset)
    except ModelError as error:
        raise ReportError(f"{run / BEST}: {error}") from error
    collector = ExampleCollector(len(dataset.classes))
    height, width = entries["input_size"]
    mode = validation_mode(parse_config(entries.get("train_config", {})).data)
    predict = network_predictor(pytorch_network(model, (height, width)), mode)
    counts = evaluate(predict, dataset, progress=progress, on_image=collector)
    write_report(
        path,
        title=f"{entries.get('architecture', 'ECENet')} on {dataset.name}, {split}",
        config=entries.get("train_config", {}),
        log=log,
        classes=dataset.classes,
        counts=counts,
        best=_named(collector.best, dataset),
        worst=_named(collector.worst, dataset),
        facts=_facts(model, entries, log),
    )


def _named(found: Iterable[Example], dataset: SegmentationDataset) -> list[Example]:
    return [replace(example, name=dataset.pairs[example.index][0].name) for example in found]


def _facts(model: ECENet, entries: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {"parameters": f"{parameters / 1e6:.2f} M"}
    if "epochs_done" in entries:
        facts["best epoch / done"] = f"{entries['epochs_done']} / {log[-1]['epoch']}"
    if "steps_done" in entries:
        facts["steps to the best"] = f"{entries['steps_done']:,}"
    seconds = sum(entry.get("seconds") or 0 for entry in log)
    return {**facts, "training time": duration(seconds)} if seconds else facts


def duration(seconds: float) -> str:
    """A time in minutes, or hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds / 60:.1f} min"


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
