"""Choose the rate of each head: every one is trained at the same rates, and scored on images that only this sees.

    python -m benchmarks.accuracy.rates --data DATA/camvid --threads 1

A fifth of CamVid's train split is held out, the end of each of its drives; val has no part in the choice. Finished runs
are skipped, and a stopped one goes on, so the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from benchmarks.accuracy.experiment import Experiment, Splits, head_commit, run_missing
from benchmarks.accuracy.recipe import Recipe, hold_out_ends, open_half_resolution
from benchmarks.accuracy.runs import RATES_FOLDER, RunError, read_run
from benchmarks.accuracy.table import markdown
from benchmarks.accuracy.variants import HEADS, VARIANTS
from trainer.datasets import DatasetError
from trainer.memory import keep_freed_memory
from trainer.training_loop import DivergedError
from trainer.weights.pretrained import PretrainedError

MULTIPLES = (4.0, 8.0, 16.0)


def grid(variants: Iterable[str], recipe: Recipe, folder: Path) -> list[Experiment]:
    """A run per rate and head, with the first seed."""
    return [
        Experiment(name, 0, replace(recipe, head_lr_multiple=multiple), rate_path(folder, name, multiple))
        for name, multiple in product(variants, MULTIPLES)
    ]


def rate_path(folder: Path, variant: str, multiple: float) -> Path:
    """Path of the run of a head at a rate."""
    return folder / f"{variant}-x{multiple:g}.json"


def chosen_multiple(folder: Path, variant: str) -> float:
    """The multiple of the backbone's rate at which a head is best; ECENet without a part has ECENet's.

    Raises:
        RunError: A run of the grid is missing.
    """
    head = "ecenet" if VARIANTS[variant].ablation else variant
    scores = {multiple: read_run(rate_path(folder, head, multiple))["miou"] for multiple in MULTIPLES}
    return max(scores, key=lambda multiple: float(scores[multiple]))


def rates_table(folder: Path) -> str:
    """mIoU on the held-out images per head and rate, in Markdown; a dash where a run is missing."""
    header = ["Head", *(f"x{multiple:g}" for multiple in MULTIPLES)]
    rows = [[VARIANTS[name].title, *(_cell(rate_path(folder, name, m)) for m in MULTIPLES)] for name in HEADS]
    return markdown(header, rows)


def _cell(path: Path) -> str:
    return f"{100 * read_run(path)['miou']:.1f}" if path.exists() else "-"


def open_splits(data: Path) -> Splits:
    """CamVid's train split at half resolution in two: the rest, and the ends of its drives."""
    return hold_out_ends(open_half_resolution(data, "train"))


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = _parser().parse_args(arguments)
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        experiments = grid(args.variants, Recipe(args.steps), args.folder)
        run_missing(experiments, open_splits(args.data), commit=args.commit or head_commit())
        print(rates_table(args.folder))
    except (RunError, DatasetError, PretrainedError, DivergedError, OSError) as error:
        print(f"rates: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rates", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--variants", nargs="+", choices=HEADS, default=list(HEADS), metavar="HEAD")
    parser.add_argument("--steps", type=int, default=450, help="steps of every run (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: all")
    parser.add_argument(
        "--folder", type=Path, default=RATES_FOLDER, help="where runs are written (default: %(default)s)"
    )
    parser.add_argument("--commit", help="commit of the code, where git cannot tell it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
