"""The figures of results.json: p99 against load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = Mapping[str, Any]
# A fleet that refuses more than this has no p99 worth drawing: the fastest way to answer is to refuse.
_MOST_REFUSED = 0.01
# The axis ends at so many times the lowest p99; lines that leave it are lost anyhow.
_HEADROOM = 8
_COLORS = ("tab:gray", "tab:red", "tab:blue", "tab:green")
_MARKERS = "sov^"


def draw_policies(rows: Iterable[Row], path: Path) -> None:
    """Policies on equal replicas, with a slow one, and with many balancers."""
    titles = {
        "equal": "8 equal replicas",
        "slow": "one of 8 at half speed",
        "balancers": "8 equal replicas, 16 balancers",
    }
    _draw(list(rows), titles, path, one_scale=True)


def draw_batching(rows: Iterable[Row], path: Path) -> None:
    """Batch limits on an engine whose batches save nothing and on one with a fixed cost."""
    titles = {
        "batch bundled": "bundled model, two CPU cores",
        "batch fixed": "engine with a fixed cost, 40 + 20 b ms",
    }
    _draw(list(rows), titles, path, one_scale=False)


def _draw(rows: Sequence[Row], titles: Mapping[str, str], path: Path, *, one_scale: bool) -> None:
    figure = Figure(figsize=(4.0 * len(titles), 3.6), layout="constrained")
    panels = figure.subplots(1, len(titles))
    for axes, (sweep, title) in zip(panels, titles.items(), strict=True):
        shown = [row for row in rows if row["sweep"] == sweep]
        _lines(axes, shown)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("load, % of capacity")
        scaled = [row for row in rows if row["sweep"] in titles] if one_scale else shown
        axes.set_ylim(0, _HEADROOM * min(row["p99_ms"] for row in scaled) / 1000)
    panels[0].set_ylabel("p99 latency, s")
    panels[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _lines(axes: Axes, rows: Sequence[Row]) -> None:
    for name, color, marker in zip(dict.fromkeys(row["line"] for row in rows), _COLORS, _MARKERS, strict=True):
        points = [row for row in rows if row["line"] == name and served(row)]
        axes.plot(
            [100 * row["load"] for row in points],
            [row["p99_ms"] / 1000 for row in points],
            color=color,
            marker=marker,
            markersize=4,
            linewidth=1.4,
            label=name,
        )
    axes.set_xlim(25, 100)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def served(row: Row) -> bool:
    """Check whether few enough requests were refused or expired for the latencies to speak for all."""
    return bool(row["rejected_share"] + row["expired_share"] <= _MOST_REFUSED)
