"""Runs side by side on one page: figures, curves, IoU per class, and the differences of their configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from service.model_directory.files import write_whole
from trainer.checkpoint import class_names, read_entries
from trainer.patience import best_entry
from trainer.report.figures import COLORS, curves_svg
from trainer.report.rendering import render
from trainer.report.run_report import ReportError, duration, read_log
from trainer.run_folder import BEST, LOG


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run as its folder describes it.

    Attributes:
        name: Its folder, as it was given.
        color: Of its curves and bars, ``#rrggbb``.
        log: The entries of its log.
        best: The entry of its best evaluation.
        classes: Names of its classes.
        config: Its configuration by section.
    """

    name: str
    color: str
    log: Sequence[Mapping[str, Any]]
    best: Mapping[str, Any]
    classes: tuple[str, ...]
    config: Mapping[str, Mapping[str, Any]]

    @property
    def time(self) -> str:
        """The time of its epochs."""
        return duration(sum(entry.get("seconds") or 0 for entry in self.log))

    def iou(self, place: int) -> float:
        """The IoU of a class at the best evaluation, 0..1; NaN where it does not occur."""
        found = self.best.get("class_iou") or []
        return float("nan") if place >= len(found) or found[place] is None else float(found[place])


def compare_runs(folders: Sequence[Path], path: Path) -> None:
    """Write one HTML file on several runs of the same classes.

    Raises:
        ReportError: A run has no log or no evaluation, or other classes than the first.
        CheckpointError: A best checkpoint cannot be read.
    """
    runs = [_read(folder, COLORS[place % len(COLORS)]) for place, folder in enumerate(folders)]
    for run in runs[1:]:
        if run.classes != runs[0].classes:
            raise ReportError(f"{run.name} has other classes than {runs[0].name}: runs of the same classes compare")
    text = render(
        "comparison.html",
        title=" and ".join(run.name for run in runs),
        runs=runs,
        curves=_curves(runs),
        differences=_differences(runs),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def _read(folder: Path, color: str) -> ComparedRun:
    log = read_log(folder / LOG)
    best = best_entry(log)
    if best is None or not (folder / BEST).is_file():
        raise ReportError(f"{folder} has not been evaluated yet")
    entries = read_entries(folder / BEST)
    return ComparedRun(str(folder), color, log, best, class_names(entries) or (), entries.get("train_config", {}))


def _curves(runs: Sequence[ComparedRun]) -> list[Markup]:
    return [
        curves_svg({run.name: _series(run.log, ("val_miou",)) for run in runs}, label="mIoU on val", percent=True),
        curves_svg({run.name: _series(run.log, _losses(run.log)) for run in runs}, label="sum of the losses"),
        curves_svg({run.name: _series(run.log, ("lr",)) for run in runs}, label="learning rate"),
    ]


def _losses(log: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(key for key in log[0] if key.startswith("loss_"))


def _series(log: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[tuple[int, float]]:
    """The sum of some values over the epochs that have all of them."""
    entries = [entry for entry in log if keys and all(entry.get(key) is not None for key in keys)]
    return [(int(entry["epoch"]), float(sum(entry[key] for key in keys))) for entry in entries]


def _differences(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """The settings that are not the same in all runs, as text."""
    sections = dict.fromkeys(section for run in runs for section in run.config)
    keys = dict.fromkeys((section, key) for section in sections for run in runs for key in run.config.get(section, {}))
    values = {at: [_value(run.config.get(at[0], {}).get(at[1])) for run in runs] for at in keys}
    return {".".join(at): row for at, row in values.items() if len(set(row)) > 1}


def _value(value: Any) -> str:
    return "" if value is None else json.dumps(list(value) if isinstance(value, tuple) else value)
