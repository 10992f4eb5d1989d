"""The tables of the comparison and of the ablation, in Markdown, from the files of the finished runs.

python -m benchmarks.accuracy.table
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy.runs import FOLDER, RunError, read_run
from benchmarks.accuracy.variants import VARIANTS

Run = Mapping[str, Any]
# What runs may differ in: the rest of the recipe is the same for all, or their figures do not compare.
OWN_KEYS = (
    "variant",
    "seed",
    "class_balance",
    "loss_weights",
    "head_lr_multiple",
    "classifier_lr_multiple",
    "bilinear_start",
    "principal_start",
)


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """All finished runs of a folder.

    Raises:
        RunError: There is none, one is broken, or two differ in their recipe.
    """
    runs = {path: read_run(path) for path in sorted(folder.glob("*.json"))}
    if not runs:
        raise RunError(f"{folder} holds no finished run")
    first = next(iter(runs))
    for path, run in runs.items():
        for key in run["config"].keys() - OWN_KEYS:
            values = [runs[first]["config"].get(key), run["config"][key]]
            if values[0] != values[1]:
                raise RunError(f"{path} was run with {key} {values[1]}, {first} with {values[0]}")
    return list(runs.values())


def tables(runs: Sequence[Run]) -> str:
    """Both tables and a line that says how they came about."""
    heads = [name for name, variant in VARIANTS.items() if not variant.ablation]
    parts = ["ecenet", *(name for name, variant in VARIANTS.items() if variant.ablation)]
    return "\n\n".join([table("Head", heads, runs), table("ECENet", parts, runs), origin(runs)])


def table(heading: str, variants: Iterable[str], runs: Sequence[Run]) -> str:
    """A row per variant that has runs: mean mIoU, mIoU per seed, parameters, GFLOPs per input; a dash where none is."""
    seeds = sorted({run["config"]["seed"] for run in runs})
    sizes = list(runs[0]["gflops"])
    header = [heading, "mIoU", *(f"seed {s}" for s in seeds), "parameters, M", *(f"GFLOPs at {s}" for s in sizes)]
    rows = [_row(name, seeds, sizes, [r for r in runs if r["config"]["variant"] == name]) for name in variants]
    return markdown(header, [row for row in rows if row])


def origin(runs: Sequence[Run]) -> str:
    """The recipe's length, and what the runs were computed with."""
    config = runs[0]["config"]
    hours = sum(run["seconds"]["training"] for run in runs) / 3600
    versions = ", ".join(sorted({f"torch {run['torch']}" for run in runs}))
    commits = ", ".join(sorted({run["commit"] or "unknown" for run in runs}))
    return (
        f"{len(runs)} runs of {config['steps']} steps with batch {config['batch_size']}, {config['precision']}, "
        f"{hours:.1f} hours of training in all; {versions}; commit {commits}."
    )


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _row(name: str, seeds: Sequence[int], sizes: Sequence[str], runs: Sequence[Run]) -> list[str]:
    if not runs:
        return []
    miou = {run["config"]["seed"]: 100 * run["miou"] for run in runs}
    return [
        VARIANTS[name].title,
        f"{statistics.mean(miou.values()):.1f}",
        *(f"{miou[seed]:.1f}" if seed in miou else "-" for seed in seeds),
        f"{runs[0]['parameters'] / 1e6:.2f}",
        *(f"{runs[0]['gflops'][size]:.2f}" for size in sizes),
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of the runs (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        print(tables(read_runs(args.folder)))
    except RunError as error:
        print(f"table: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
