"""The evaluations of a log: the best one, and the end of a run that no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Log = Sequence[Mapping[str, Any]]
"""Entries of a run's log, one per epoch; those of epochs with an evaluation that gave a score have ``val_miou``."""


def best_entry(log: Log) -> Mapping[str, Any] | None:
    """The entry of the highest mIoU, the first of equals; None if no evaluation gave one."""
    entries = [entry for entry in log if _has_score(entry)]
    return max(entries, key=lambda entry: float(entry["val_miou"]), default=None)


def is_exhausted(log: Log, patience: int) -> bool:
    """Check whether the last ``patience`` evaluations brought no better mIoU; never with a patience of 0."""
    best = best_entry(log)
    if not patience or best is None:
        return False
    later = [entry for entry in log if "val_miou" in entry and entry["epoch"] > best["epoch"]]
    return len(later) >= patience


def evaluation_text(log: Log, epochs: int) -> str:
    """The line on the last evaluation."""
    last, best = log[-1], best_entry(log)
    score = f"mIoU {100 * last['val_miou']:.2f}" if _has_score(last) else "no labelled pixel in val"
    place = "the best so far" if best is last else best_text(best)
    return f"epoch {last['epoch']}/{epochs}: {score}" + (f", {place}" if place else "")


def best_text(best: Mapping[str, Any] | None) -> str:
    """The best mIoU and its epoch; nothing if there is none."""
    return "" if best is None else f"best {100 * best['val_miou']:.2f} in epoch {best['epoch']}"


def _has_score(entry: Mapping[str, Any]) -> bool:
    """Check for a score; in a log of another writer it may be NaN or null."""
    score = entry.get("val_miou")
    return score is not None and not math.isnan(score)
