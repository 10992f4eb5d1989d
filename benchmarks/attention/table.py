"""The tables of results.json, in Markdown.

python -m benchmarks.attention.table
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.accuracy.table import markdown

_TITLES = {"attention": "Attention and masks alone", "stage": "Whole stage: SAU and class extraction"}


def tables(results: Mapping[str, Any]) -> str:
    """A table per part that was measured, a row per case, and a line on their origin."""
    measured = {row["part"] for row in results["rows"]}
    parts = [_table(title, part, results) for part, title in _TITLES.items() if part in measured]
    return "\n\n".join([*parts, origin(results)])


def origin(results: Mapping[str, Any]) -> str:
    """Command, machine, versions and commit."""
    packages = ", ".join(f"{name} {version}" for name, version in results["packages"].items())
    return (
        f"`{results['command']}`: batch 1, medians of {results['repeats']}, {results['threads']} threads on "
        f"{results['processor']}; {packages}; commit {results['commit'] or 'unknown'}."
    )


def _table(title: str, part: str, results: Mapping[str, Any]) -> str:
    header = ["K", "Q", "naive, ms", "fused, ms", "naive / fused", "naive, MB", "fused, MB", "ORT nodes"]
    if results["tensorrt"]:
        header += ["RTX kernels", "fused attentions", "RTX naive, MB", "RTX fused, MB"]
    rows = [_row(row) for row in results["rows"] if row["part"] == part]
    return f"**{title}**, C = {results['rows'][0]['channels']}:\n\n{markdown(header, rows)}"


def _row(row: Mapping[str, Any]) -> list[str]:
    cells = [
        str(row["num_classes"]),
        str(row["queries"]),
        *_both(row, "ms", "{:.1f}"),
        f"{row['time_ratio']:.2f}",
        *_both(row, "memory_bytes", "{:.0f}", 1e-6),
        " : ".join(_both(row, "nodes")),
    ]
    if "kernels" not in row["naive"]:
        return cells
    counts = [" : ".join(_both(row, key)) for key in ("kernels", "fused_attentions")]
    return [*cells, *counts, *_both(row, "activation_bytes", "{:.0f}", 1e-6)]


def _both(row: Mapping[str, Any], key: str, text: str = "{}", factor: float = 1) -> list[str]:
    return [text.format(row[form][key] * factor) for form in ("naive", "fused")]


def main() -> None:
    """Print the tables of the run that is kept."""
    print(tables(json.loads((Path(__file__).parent / "results.json").read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
