"""Content of a report's sections, computed from scores, log and examples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from service.model_directory.manifest import ClassInfo
from trainer.metrics import Scores
from trainer.report.examples import Example
from trainer.report.figures import Series, curves_svg
from trainer.report.images import backdrop_uri, errors_uri, full_palette, label_uri, photo_uri, shares_uri
from trainer.report.rendering import percent

MAX_TABLE_CLASSES = 30
MATRIX_COLOR = (59, 130, 246)
_SCORES = {"val_miou": "mIoU", "val_accuracy": "aAcc", "val_mean_accuracy": "mAcc"}


class Bar(NamedTuple):
    """A class with its IoU and its share of the labelled pixels, 0..1."""

    info: ClassInfo
    iou: float
    share: float


class Pair(NamedTuple):
    """A class mistaken for another, in how many of its pixels, and in which share of them."""

    label: ClassInfo
    prediction: ClassInfo
    share: float
    pixels: int


def tiles(scores: Scores, facts: Mapping[str, str]) -> dict[str, str]:
    """The figures of the evaluation in percent, then whatever facts are known, by unit or name."""
    figures = {"mIoU, %": scores.miou, "aAcc, %": scores.accuracy, "mAcc, %": scores.mean_accuracy}
    return {**{name: percent(value) for name, value in figures.items()}, **facts}


def curves(log: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Drawings over the epochs: the loss terms with their sum, the scores, and the learning rate."""
    losses = {key.removeprefix("loss_"): _series(log, key) for key in _loss_keys(log)}
    if len(losses) > 1:
        losses = {"sum": _total(log), **losses}
    rate = _series(log, "lr")
    scores = score_curves(log)
    return [
        *([curves_svg(losses, label="loss")] if losses else []),
        *([curves_svg(scores, label="val scores", percent=True)] if scores else []),
        *([curves_svg({"lr": rate}, label="learning rate")] if rate else []),
    ]


def score_curves(log: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """The scores on val by name, over the epochs that have been evaluated."""
    return {name: points for key, name in _SCORES.items() if (points := _series(log, key))}


def class_bars(classes: Sequence[ClassInfo], confusion: NDArray[np.int64], scores: Scores) -> list[Bar]:
    """A bar per class, best first."""
    shares = confusion.sum(1) / max(int(confusion.sum()), 1)
    order = sorted(classes, key=lambda info: (-np.nan_to_num(scores.class_iou[info.id], nan=-1.0), info.id))
    return [Bar(info, float(scores.class_iou[info.id]), float(shares[info.id])) for info in order]


def label_shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """The confusion matrix, each row as shares of its label's pixels; NaN where there are none."""
    labelled = confusion.sum(1, keepdims=True)
    shares = np.full(confusion.shape, np.nan)
    np.divide(confusion, labelled, out=shares, where=labelled > 0)
    return shares


def matrix_picture(shares: NDArray[np.float64]) -> str:
    """The matrix as a picture, for many classes; empty for a few, which get a table."""
    return shares_uri(shares, MATRIX_COLOR) if len(shares) > MAX_TABLE_CLASSES else ""


def confused_pairs(
    classes: Sequence[ClassInfo], confusion: NDArray[np.int64], shares: NDArray[np.float64], count: int = 12
) -> list[Pair]:
    """The largest shares off the diagonal."""
    off = np.nan_to_num(shares) * (1 - np.eye(len(classes)))
    order = np.argsort(-off, axis=None, kind="stable")[:count]
    places = [divmod(int(place), len(classes)) for place in order if off.flat[place] > 0]
    return [Pair(classes[a], classes[b], float(off[a, b]), int(confusion[a, b])) for a, b in places]


def pictures(chosen: Sequence[Example], classes: Sequence[ClassInfo]) -> list[dict[str, Any]]:
    """Image, label, prediction and errors of each example as data URIs, with its name and mIoU."""
    palette = full_palette(classes)
    return [
        {
            "name": example.name or f"image {example.index}",
            "miou": example.miou,
            "photo": photo_uri(example.image),
            "label": label_uri(example.labels, palette),
            "prediction": label_uri(example.prediction, palette),
            "errors": errors_uri(example.labels, example.prediction),
            "backdrop": backdrop_uri(example.image),
        }
        for example in chosen
    ]


def shown_ids(chosen: Iterable[Example]) -> set[int]:
    """The ids that the examples hold, ``IGNORE_INDEX`` among them."""
    return {int(value) for one in chosen for array in (one.labels, one.prediction) for value in np.unique(array)}


def settings(tables: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Nested tables of settings as text, a table per section, and one without a name for top-level keys."""
    loose = {key: value for key, value in tables.items() if not isinstance(value, Mapping)}
    sections = {**({"": loose} if loose else {}), **{k: v for k, v in tables.items() if isinstance(v, Mapping)}}
    return {name: {key: _value(value) for key, value in rows.items()} for name, rows in sections.items()}


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _loss_keys(log: Sequence[Mapping[str, Any]]) -> list[str]:
    return [key for key in dict.fromkeys(key for entry in log for key in entry) if key.startswith("loss_")]


def _series(log: Sequence[Mapping[str, Any]], key: str) -> Series:
    return [(entry["epoch"], float(entry[key])) for entry in log if entry.get(key) is not None]


def _total(log: Sequence[Mapping[str, Any]]) -> Series:
    keys = _loss_keys(log)
    return [
        (e["epoch"], sum(float(e[key]) for key in keys)) for e in log if all(e.get(key) is not None for key in keys)
    ]
