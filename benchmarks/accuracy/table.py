"""The tables of the comparison, the ablation and the classes, in Markdown, from the files of the finished runs.

python -m benchmarks.accuracy.table
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.accuracy.runs import FOLDER, SPEED, RunError, read_run
from benchmarks.accuracy.variants import HEADS, VARIANTS

Run = Mapping[str, Any]
Cell = Callable[[Sequence[Run]], str]
MISSING = "-"
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
    "warmup_steps",
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
    """The tables of the heads, of changed ECENets and of the heads' classes, and a line on their origin."""
    parts = ["ecenet", *(name for name in VARIANTS if name not in HEADS)]
    return "\n\n".join(
        [table("Head", HEADS, runs), table("ECENet", parts, runs), classes_table(HEADS, runs), origin(runs)]
    )


def table(heading: str, variants: Iterable[str], runs: Sequence[Run]) -> str:
    """A row per variant that has runs: accuracy in percent, mean and per seed, rates, and cost.

    A dash stands where no run has the figure; a column of dashes is left out.
    """
    columns = _columns(runs)
    groups = {name: of_variant(runs, name) for name in variants}
    rows = [
        [VARIANTS[name].title, *(cell(group) for cell in columns.values())] for name, group in groups.items() if group
    ]
    kept = [0, *(place for place in range(1, len(columns) + 1) if any(row[place] != MISSING for row in rows))]
    header = [heading, *columns]
    return markdown([header[place] for place in kept], [[row[place] for place in kept] for row in rows])


def classes_table(variants: Iterable[str], runs: Sequence[Run]) -> str:
    """IoU per class in percent, the mean over the seeds; a row per class, a column per variant that has runs."""
    groups = {name: group for name in variants if (group := of_variant(runs, name))}
    rows = [[name, *(_percent(_class_ious(name, group)) for group in groups.values())] for name in runs[0]["class_iou"]]
    return markdown(["class", *(VARIANTS[name].title for name in groups)], rows)


def _class_ious(name: str, runs: Iterable[Run]) -> list[float]:
    return [iou for run in runs if (iou := run["class_iou"][name]) is not None]


def of_variant(runs: Sequence[Run], variant: str) -> list[Run]:
    """The runs of a variant."""
    return [run for run in runs if run["config"]["variant"] == variant]


def _columns(runs: Sequence[Run]) -> dict[str, Cell]:
    """Columns of a table by title; each gives its cell for the runs of a variant."""
    seeds = sorted({run["config"]["seed"] for run in runs})
    return {
        "mIoU": lambda group: _percent(run["miou"] for run in group),
        **{f"seed {seed}": partial(_of_seed, seed) for seed in seeds},
        "boundary IoU": lambda group: _percent(run["boundary_miou"] for run in group if "boundary_miou" in run),
        "rate": _rate,
        "parameters, M": lambda group: f"{group[0]['parameters'] / 1e6:.2f}",
        **{f"GFLOPs at {size}": partial(_gflops, size) for size in runs[0]["gflops"]},
        **_speed_column(runs),
    }


def _speed_column(runs: Sequence[Run]) -> dict[str, Cell]:
    """The column from ``speed.json``, if it was measured with as many classes."""
    if not SPEED.exists():
        return {}
    speed = json.loads(SPEED.read_text(encoding="utf-8"))
    if speed["classes"] != len(runs[0]["class_iou"]):
        return {}
    return {f"ms at {speed['size']}": partial(_milliseconds, speed["milliseconds"])}


def _percent(shares: Iterable[float]) -> str:
    values = [100 * share for share in shares]
    return f"{statistics.mean(values):.1f}" if values else MISSING


def _of_seed(seed: int, group: Sequence[Run]) -> str:
    return _percent(run["miou"] for run in group if run["config"]["seed"] == seed)


def _rate(group: Sequence[Run]) -> str:
    """The head's rate per backbone's, and the classifier's where it is another."""
    config = group[0]["config"]
    head = config["head_lr_multiple"]
    classifier = config.get("classifier_lr_multiple", head)
    return f"x{head:g}" if classifier == head else f"x{head:g}, x{classifier:g}"


def _gflops(size: str, group: Sequence[Run]) -> str:
    return f"{group[0]['gflops'][size]:.2f}"


def _milliseconds(speed: Mapping[str, float], group: Sequence[Run]) -> str:
    name = group[0]["config"]["variant"]
    value = speed.get(VARIANTS[name].network(name))
    return MISSING if value is None else f"{value:.0f}"


def origin(runs: Sequence[Run]) -> str:
    """The recipe's length, and the runs' hardware and software."""
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
