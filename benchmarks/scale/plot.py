"""The figures of the page: p99 against load by results.json, and images per second against cores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from k8s.sizing import GPUS, Device

Row = Mapping[str, Any]
# A fleet that refuses more than this has no p99 worth drawing: the fastest way to answer is to refuse.
_MOST_REFUSED = 0.01
# The axis ends at so many times the lowest p99; lines that leave it are lost anyhow.
_HEADROOM = 8
_COLORS = ("tab:gray", "tab:red", "tab:blue", "tab:green")
_MARKERS = "sov^"
_MOST_CORES = 64


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


def draw_cores(path: Path) -> None:
    """Images per second of each GPU by the cores beside it, by arithmetic, with the name of what ends them."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    cores = range(1, _MOST_CORES + 1)
    for gpu, color in zip(GPUS, _COLORS, strict=True):
        devices = [Device(gpu.name, count, gpu) for count in cores]
        axes.plot(cores, [device.most_images_per_s for device in devices], color=color, linewidth=1.6, label=gpu.name)
        enough = next((device for device in devices if device.bottleneck != "cores"), devices[-1])
        axes.annotate(
            enough.bottleneck,
            (enough.cores or 0, enough.most_images_per_s),
            textcoords="offset points",
            xytext=(4, 5),
            fontsize=8,
            color=color,
        )
    axes.set_xlabel("cores beside the GPU")
    axes.set_ylabel("images/s at most")
    axes.set_xlim(0, _MOST_CORES)
    axes.set_ylim(0)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


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
