"""The figure of results.json: time and memory of the naive form as multiples of the fused one's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = Mapping[str, Any]
_MEASURES: dict[str, Callable[[Row], float]] = {
    "time, ONNX Runtime": lambda row: row["time_ratio"],
    "memory growth, ONNX Runtime": lambda row: row["naive"]["memory_bytes"] / row["fused"]["memory_bytes"],
    "GPU memory, TensorRT-RTX": lambda row: row["naive"]["activation_bytes"] / row["fused"]["activation_bytes"],
}
_COLORS = {"attention": "tab:blue", "stage": "tab:orange"}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write a panel per measure, in each a bar per case and part."""
    parts = list(dict.fromkeys(row["part"] for row in results["rows"]))
    measures = list(_MEASURES.items())[: 3 if results["tensorrt"] else 2]
    figure = Figure(figsize=(4.2 * len(measures), 3.4), layout="constrained")
    for axes, (title, value) in zip(figure.subplots(1, len(measures)), measures, strict=True):
        for offset, part in enumerate(parts):
            _bars(axes, part, offset, [row for row in results["rows"] if row["part"] == part], value)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("K, Q")
    figure.axes[0].set_ylabel("naive / fused")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _bars(axes: Axes, part: str, offset: int, rows: list[Row], value: Callable[[Row], float]) -> None:
    places = [index + 0.4 * (offset - 0.5) for index in range(len(rows))]
    axes.bar(places, [value(row) for row in rows], 0.4, color=_COLORS[part], label=part)
    labels = [f"{row['num_classes']}, {row['queries']}" for row in rows]
    axes.set_xticks(range(len(rows)), labels, rotation=60, fontsize=8)
