"""Curves over epochs as inline SVG, drawn by matplotlib: the foreground takes the page's colour, the bytes repeat."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Series = Sequence[tuple[int, float]]
"""(epoch, value) pairs in the order of epochs."""

COLORS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#a855f7", "#14b8a6")
# A colour that nothing else has; it becomes the page's own foreground, light or dark.
_FOREGROUND = "#010203"
# More would leave no room for the curves.
_LEGEND_CHARACTERS = 24
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _FOREGROUND,
    "axes.labelcolor": _FOREGROUND,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.use_mathtext": False,
    "axes.grid": True,
    "font.size": 9.5,
    "grid.alpha": 0.15,
    "grid.color": _FOREGROUND,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": _FOREGROUND,
    "text.parse_math": False,
    "xtick.color": _FOREGROUND,
    "ytick.color": _FOREGROUND,
}


def curves_svg(curves: Mapping[str, Series], *, label: str, percent: bool = False) -> Markup:
    """One panel of curves over epochs.

    Args:
        curves: By name; points that are not finite leave a gap.
        label: What the panel shows; the vertical axis and the picture's name for screen readers.
        percent: Whether the values are shares 0..1, to be shown times 100.

    Returns:
        An ``<svg>`` element without scripts or anything outside of it.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for color, (name, points) in zip(_cycle(len(curves)), curves.items(), strict=True):
            _draw(axes, points, _short(name), color, 100.0 if percent else 1.0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{label}, %" if percent else label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if len(curves) > 1:
            axes.legend()
        stream = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    return Markup(_inline(stream.getvalue(), label))  # noqa: S704  matplotlib escapes the texts in it


def _short(name: str) -> str:
    """The end of a name that is too long for a legend."""
    return name if len(name) <= _LEGEND_CHARACTERS else f"…{name[1 - _LEGEND_CHARACTERS :]}"


def _draw(axes: Axes, points: Series, name: str, color: str, scale: float) -> None:
    epochs = [epoch for epoch, _ in points]
    values = [scale * value if math.isfinite(value) else math.nan for _, value in points]
    marker = "o" if len(points) <= 40 else ""
    axes.plot(epochs, values, label=name, color=color, linewidth=1.6, marker=marker, markersize=3)


def _cycle(count: int) -> list[str]:
    return [COLORS[place % len(COLORS)] for place in range(count)]


def _inline(svg: str, label: str) -> str:
    """The element alone, without its own style sheets, fonts and idle ids, so that several can share a page."""
    svg = svg[svg.index("<svg") :].replace(_FOREGROUND, "currentColor")
    svg = re.sub(r"<style.*?</style>| xmlns(:xlink)?=\"[^\"]*\"| font-family: [^;]*;", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'#([\w.-]+)[")]', svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda match: match[0] if match[1] in used else "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
