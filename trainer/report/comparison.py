"""Runs side by side on one page: figures, curves, IoU per class, and what differs in their configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from service.model_directory.files import write_whole
from trainer.checkpoint import read_entries
from trainer.patience import best_entry
from trainer.report.figures import COLORS, curves_svg
from trainer.report.page import percent
from trainer.report.run_report import ReportError, duration, page, read_log
from trainer.run_folder import BEST, LOG


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run as its folder tells it.

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
    sections = {
        "": _table(runs),
        "Training": _curves(runs),
        "Classes": _bars(runs),
        "Differences in configuration": _differences(runs),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page(" and ".join(run.name for run in runs), sections).encode())


def _read(folder: Path, color: str) -> ComparedRun:
    log = read_log(folder / LOG)
    best = best_entry(log)
    if best is None or not (folder / BEST).is_file():
        raise ReportError(f"{folder} has not been evaluated yet")
    entries = read_entries(folder / BEST)
    names = tuple(str(entry["name"]) for entry in entries.get("classes", ()))
    return ComparedRun(str(folder), color, log, best, names, entries.get("train_config", {}))


def _table(runs: Sequence[ComparedRun]) -> str:
    rows = "".join(
        f'<tr><td>{_swatch(run)}{escape(run.name)}</td><td class="number">{percent(run.best["val_miou"])}</td>'
        f'<td class="number">{run.best["epoch"]} / {run.log[-1]["epoch"]}</td>'
        f'<td class="number">{duration(sum(entry.get("seconds") or 0 for entry in run.log))}</td></tr>'
        for run in runs
    )
    heads = "".join(f'<th class="number">{name}</th>' for name in ("best mIoU, %", "best epoch / done", "time"))
    return f'<table class="listing"><tr><th>run</th>{heads}</tr>{rows}</table>'


def _curves(runs: Sequence[ComparedRun]) -> str:
    panels = (
        curves_svg({run.name: _series(run.log, ("val_miou",)) for run in runs}, label="mIoU on val", percent=True),
        curves_svg({run.name: _series(run.log, _losses(run.log)) for run in runs}, label="sum of the losses"),
        curves_svg({run.name: _series(run.log, ("lr",)) for run in runs}, label="learning rate"),
    )
    return f'<div class="curves">{"".join(panels)}</div>'


def _losses(log: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(key for key in log[0] if key.startswith("loss_"))


def _series(log: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[tuple[int, float]]:
    """The sum of some values over the epochs that have all of them."""
    entries = [entry for entry in log if keys and all(entry.get(key) is not None for key in keys)]
    return [(int(entry["epoch"]), float(sum(entry[key] for key in keys))) for entry in entries]


def _bars(runs: Sequence[ComparedRun]) -> str:
    """A bar per run for each class, with the IoU of the best evaluation."""
    rows = [
        _bar(name if run is runs[0] else "", run, _class_iou(run, place))
        for place, name in enumerate(runs[0].classes)
        for run in runs
    ]
    note = "IoU in percent at the best evaluation of each run; a dash where a class does not occur."
    return f'<p class="note">{note}</p><div class="bars">{"".join(rows)}</div>'


def _class_iou(run: ComparedRun, place: int) -> float:
    found = run.best.get("class_iou") or []
    return float("nan") if place >= len(found) or found[place] is None else float(found[place])


def _bar(name: str, run: ComparedRun, iou: float) -> str:
    width = 0.0 if np.isnan(iou) else 100 * iou
    return (
        f'<div class="bar"><span class="name" title="{escape(run.name)}">{escape(name)}</span><div class="track">'
        f'<div class="fill" style="width:{width:.2f}%;background:{run.color}"></div></div><b>{percent(iou)}</b></div>'
    )


def _differences(runs: Sequence[ComparedRun]) -> str:
    """The settings that are not the same in all runs."""
    sections = dict.fromkeys(section for run in runs for section in run.config)
    keys = dict.fromkeys((section, key) for section in sections for run in runs for key in run.config.get(section, {}))
    values = {at: [_value(run.config.get(at[0], {}).get(at[1])) for run in runs] for at in keys}
    rows = "".join(
        f"<tr><td>{escape(section)}.{escape(key)}</td>{''.join(f'<td>{escape(value)}</td>' for value in row)}</tr>"
        for (section, key), row in values.items()
        if len(set(row)) > 1
    )
    heads = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
    if not rows:
        return '<p class="note">The runs have the same configuration.</p>'
    return f'<table class="listing"><tr><th></th>{heads}</tr>{rows}</table>'


def _value(value: Any) -> str:
    return "" if value is None else json.dumps(list(value) if isinstance(value, tuple) else value)


def _swatch(run: ComparedRun) -> str:
    return f'<i class="swatch" style="background:{run.color}"></i>'
