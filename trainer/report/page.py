"""The sections of a report as HTML: what stands in them, without the page around and without files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.model_directory.manifest import ClassInfo
from trainer.datasets import IGNORE_INDEX
from trainer.metrics import Scores
from trainer.report.examples import Example
from trainer.report.figures import Series, curves_svg
from trainer.report.images import (
    WRONG_COLOR,
    backdrop_uri,
    errors_uri,
    full_palette,
    label_uri,
    photo_uri,
    shares_uri,
)

MAX_TABLE_CLASSES = 30
MATRIX_COLOR = (59, 130, 246)
_SCORES = {"val_miou": "mIoU", "val_accuracy": "aAcc", "val_mean_accuracy": "mAcc"}


def headline(scores: Scores, facts: Mapping[str, str]) -> str:
    """The figures of the evaluation in percent, then whatever facts are known, each in a tile."""
    figures = {"mIoU, %": scores.miou, "aAcc, %": scores.accuracy, "mAcc, %": scores.mean_accuracy}
    tiles = {**{name: percent(value) for name, value in figures.items()}, **facts}
    cells = (f'<div class="tile"><b>{_text(value)}</b><span class="unit">{_text(name)}</span></div>'
             for name, value in tiles.items())  # fmt: skip
    return f'<div class="tiles">{"".join(cells)}</div>'


def curves(log: Sequence[Mapping[str, Any]]) -> str:
    """Loss terms and their sum, learning rate, and scores, over the epochs that have them."""
    losses = {key.removeprefix("loss_"): _series(log, key) for key in _loss_keys(log)}
    if len(losses) > 1:
        losses = {"sum": _total(log), **losses}
    scores = {name: points for key, name in _SCORES.items() if (points := _series(log, key))}
    rate = _series(log, "lr")
    panels = [
        curves_svg(losses, label="loss") if losses else "",
        curves_svg(scores, label="val scores", percent=True) if scores else "",
        curves_svg({"lr": rate}, label="learning rate") if rate else "",
    ]
    missing = "" if scores else '<p class="note">The log holds no evaluation.</p>'
    return f'<div class="curves">{"".join(panels)}</div>{missing}'


def class_bars(classes: Sequence[ClassInfo], confusion: NDArray[np.int64], scores: Scores) -> str:
    """IoU per class in percent as bars in the classes' colours, best first, with the classes' shares of the pixels."""
    shares = confusion.sum(1) / max(int(confusion.sum()), 1)
    order = sorted(classes, key=lambda info: (-np.nan_to_num(scores.class_iou[info.id], nan=-1.0), info.id))
    rows = "".join(_bar(info, scores.class_iou[info.id], shares[info.id]) for info in order)
    note = (
        "IoU in percent, best first, and the class's share of the labelled pixels; a dash where a class does not occur."
    )
    return f'<p class="note">{note}</p><div class="bars">{rows}</div>'


def confusion_matrix(classes: Sequence[ClassInfo], confusion: NDArray[np.int64]) -> str:
    """The confusion matrix, each row as shares of its label's pixels: a table, or a picture for many classes."""
    labelled = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, labelled, out=np.full(confusion.shape, np.nan), where=labelled > 0)
    draw = _matrix_table if len(classes) <= MAX_TABLE_CLASSES else _matrix_picture
    parts = (draw(classes, shares), _confused_pairs(classes, confusion, shares))
    return f'<div class="confusion">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def examples(title: str, chosen: Sequence[Example], classes: Sequence[ClassInfo]) -> str:
    """Image, label, prediction and errors of each example, side by side."""
    palette = full_palette(classes)
    rows = "".join(_example(example, palette) for example in chosen)
    return f"<h3>{_text(title)}</h3>{rows}" if rows else ""


def legend(chosen: Iterable[Example], classes: Sequence[ClassInfo]) -> str:
    """The colours of the classes that the examples hold, of void and of errors."""
    ids = {int(value) for one in chosen for array in (one.labels, one.prediction) for value in np.unique(array)}
    entries = [_swatch(info.color) + _text(info.name) for info in classes if info.id in ids]
    if IGNORE_INDEX in ids:
        entries.append('<i class="swatch void"></i>void')
    entries.append(f"{_swatch(WRONG_COLOR)}wrong")
    return f'<div class="legend">{"".join(f"<span>{entry}</span>" for entry in entries)}</div>'


def settings(tables: Mapping[str, Any]) -> str:
    """Nested tables of settings as they stand, one table per section."""
    loose = {key: value for key, value in tables.items() if not isinstance(value, Mapping)}
    sections = {**({"": loose} if loose else {}), **{k: v for k, v in tables.items() if isinstance(v, Mapping)}}
    parts = (f"<div><h3>{_text(name)}</h3>{_listing(rows)}</div>" for name, rows in sections.items())
    return f'<div class="settings">{"".join(parts)}</div>'


def percent(share: float) -> str:
    """A share 0..1 times 100 with two digits; a dash for NaN."""
    return "–" if np.isnan(share) else f"{100 * share:.2f}"  # noqa: RUF001


def _bar(info: ClassInfo, iou: float, share: float) -> str:
    width = 0.0 if np.isnan(iou) else 100 * iou
    return (
        f'<div class="bar"><span class="name" title="{_text(info.name)}">{_swatch(info.color)}{_text(info.name)}</span>'
        f'<div class="track"><div class="fill" style="width:{width:.2f}%;background:{_css(info.color)}"></div></div>'
        f'<b>{percent(iou)}</b><span class="unit number">{100 * share:.2f} %</span></div>'
    )


def _matrix_table(classes: Sequence[ClassInfo], shares: NDArray[np.float64]) -> str:
    heads = "".join(f"<th><span>{_text(info.name)}</span></th>" for info in classes)
    rows = "".join(
        f'<tr><th scope="row">{_text(info.name)}{_swatch(info.color, "0 0 0 .5em")}</th>'
        f"{''.join(_cell(info, other, shares[info.id, other.id]) for other in classes)}</tr>"
        for info in classes
    )
    note = '<p class="note">Rows: label. Columns: prediction. Percent of the row\'s labelled pixels.</p>'
    return (
        f'{note}<div class="scroll"><table class="matrix"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cell(label: ClassInfo, prediction: ClassInfo, share: float) -> str:
    if np.isnan(share):
        return '<td class="none" style="--share:0">–</td>'  # noqa: RUF001
    kind = "high" if share > 0.5 else "none" if share < 0.005 else ""
    title = f"{_text(label.name)} as {_text(prediction.name)}: {percent(share)} %"
    value = f"{100 * share:.0f}" if share >= 0.005 else "·" if share > 0 else ""
    return f'<td class="{kind}" style="--share:{share:.3f}" title="{title}">{value}</td>'


def _matrix_picture(classes: Sequence[ClassInfo], shares: NDArray[np.float64]) -> str:
    note = (
        f"Rows: label. Columns: prediction. {len(classes)} classes by their ids, from the upper left corner; "
        "the stronger the colour, the larger the share of the label's pixels."
    )
    uri = shares_uri(shares, MATRIX_COLOR)
    return f'<p class="note">{note}</p><img class="large" src="{uri}" alt="confusion matrix">'


def _confused_pairs(
    classes: Sequence[ClassInfo], confusion: NDArray[np.int64], shares: NDArray[np.float64], count: int = 12
) -> str:
    """The largest shares off the diagonal as a list."""
    off = np.nan_to_num(shares) * (1 - np.eye(len(classes)))
    order = np.argsort(-off, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(classes)) for place in order if off.flat[place] > 0]
    rows = "".join(
        f"<tr><td>{_name(classes[label])}</td><td>{_name(classes[other])}</td>"
        f'<td class="number">{percent(off[label, other])} %</td>'
        f'<td class="number">{confusion[label, other]:,}</td></tr>'
        for label, other in pairs
    )
    note = "The largest shares off the diagonal."
    if not rows:
        return '<p class="note">No pixel is confused.</p>'
    head = (
        '<tr><th>label</th><th>taken for</th><th class="number">of its pixels</th><th class="number">pixels</th></tr>'
    )
    return f'<p class="note">{note}</p><table class="listing">{head}{rows}</table>'


def _example(example: Example, palette: bytes) -> str:
    name = example.name or f"image {example.index}"
    pictures = (
        ("image", "", photo_uri(example.image), ""),
        ("label", "map", label_uri(example.labels, palette), ""),
        ("prediction", "map", label_uri(example.prediction, palette), ""),
        ("errors", "errors", errors_uri(example.labels, example.prediction), backdrop_uri(example.image)),
    )
    cells = "".join(_picture(f"{name}: {what}", what, *rest) for what, *rest in pictures)
    caption = f"<b>{_text(name)}</b> · mIoU {percent(example.miou)} %"
    return f'<figure class="example"><figcaption>{caption}</figcaption>{cells}</figure>'


def _picture(alt: str, caption: str, kind: str, uri: str, backdrop: str) -> str:
    style = f' style="background-image:url({backdrop})"' if backdrop else ""
    image = f'<img class="{kind}" src="{uri}" alt="{_text(alt)}"{style}>'
    return f'<div>{image}<span class="unit">{caption}</span></div>'


def _loss_keys(log: Sequence[Mapping[str, Any]]) -> list[str]:
    return [key for key in dict.fromkeys(key for entry in log for key in entry) if key.startswith("loss_")]


def _series(log: Sequence[Mapping[str, Any]], key: str) -> Series:
    return [(entry["epoch"], float(entry[key])) for entry in log if entry.get(key) is not None]


def _total(log: Sequence[Mapping[str, Any]]) -> Series:
    keys = _loss_keys(log)
    return [
        (e["epoch"], sum(float(e[key]) for key in keys)) for e in log if all(e.get(key) is not None for key in keys)
    ]


def _listing(rows: Mapping[str, Any]) -> str:
    cells = (f"<tr><td>{_text(key)}</td><td>{_text(_value(value))}</td></tr>" for key, value in rows.items())
    return f'<table class="listing">{"".join(cells)}</table>'


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _name(info: ClassInfo) -> str:
    return _swatch(info.color) + _text(info.name)


def _swatch(color: tuple[int, int, int], margin: str = "") -> str:
    return f'<i class="swatch" style="background:{_css(color)}{f";margin:{margin}" if margin else ""}"></i>'


def _css(color: tuple[int, int, int]) -> str:
    return f"#{bytes(color).hex()}"


def _text(value: object) -> str:
    return escape(str(value))
