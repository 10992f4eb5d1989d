"""Choose the rates of each head: every one is trained at the same rates, and scored on images that nothing else uses.

    python -m benchmarks.accuracy.rates --data DATA/camvid --threads 1

A head trains at each of ``MULTIPLES``. A rival trains once more at the best of them, with the rate of ECENet's
classifier for its own. A fifth of CamVid's train split is held out, the end of each of its drives; val has no part in
the choice. A run has half the steps of the comparison's. The command skips finished runs and continues a stopped one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.accuracy.data import DATA, folder_of
from benchmarks.accuracy.experiment import Experiment, head_commit, run_missing
from benchmarks.accuracy.recipe import Recipe
from benchmarks.accuracy.runs import RATES_FOLDER, RunError, read_run
from benchmarks.accuracy.table import markdown
from benchmarks.accuracy.variants import HEADS, VARIANTS
from trainer.datasets import DatasetError
from trainer.memory import keep_freed_memory
from trainer.training_loop import DivergedError
from trainer.weights.pretrained import PretrainedError

MULTIPLES = (4.0, 8.0, 16.0)


class Rates(NamedTuple):
    """Rates of a head per backbone's rate; None is the variant's own of its classifier."""

    head: float
    classifier: float | None = None

    def applied_to(self, recipe: Recipe) -> Recipe:
        """The recipe with these rates."""
        return replace(recipe, head_lr_multiple=self.head, classifier_lr_multiple=self.classifier)


def grid(variants: Iterable[str], recipe: Recipe, folder: Path) -> list[Experiment]:
    """A run per rate and head, with the first seed."""
    return [_experiment(name, Rates(multiple), recipe, folder) for name, multiple in product(variants, MULTIPLES)]


def fast_classifiers(variants: Iterable[str], recipe: Recipe, folder: Path) -> list[Experiment]:
    """A run per rival at its best rate of the grid, whose classifier has the rate that ECENet's would have.

    A rival that lacks runs of the grid is left out: the process that finishes the last of them runs this too.
    """
    rivals = [name for name in variants if VARIANTS[name].is_rival and _grid_is_complete(folder, name)]
    return [_experiment(name, _fast(name, best_of_grid(folder, name)), recipe, folder) for name in rivals]


def _grid_is_complete(folder: Path, variant: str) -> bool:
    return all(rate_path(folder, variant, Rates(multiple)).exists() for multiple in MULTIPLES)


def _experiment(name: str, rates: Rates, recipe: Recipe, folder: Path) -> Experiment:
    return Experiment(name, 0, rates.applied_to(recipe), rate_path(folder, name, rates))


def _fast(name: str, rates: Rates) -> Rates:
    return Rates(rates.head, VARIANTS[name].fast_multiple)


def rate_path(folder: Path, variant: str, rates: Rates) -> Path:
    """Path of the run of a head at its rates."""
    classifier = "" if rates.classifier is None else f"-classifier-x{rates.classifier:g}"
    return folder / f"{variant}-x{rates.head:g}{classifier}.json"


def best_of_grid(folder: Path, variant: str) -> Rates:
    """The rates of the grid at which a head is best.

    Raises:
        RunError: A run of the grid is missing.
    """
    return _best(folder, variant, [Rates(multiple) for multiple in MULTIPLES])


def chosen_rates(folder: Path, variant: str) -> Rates:
    """The rates at which a head is best; changed ECENets have ECENet's.

    Raises:
        RunError: A run is missing.
    """
    head = variant if VARIANTS[variant].is_rival else "ecenet"
    best = best_of_grid(folder, head)
    return _best(folder, head, [best, _fast(head, best)]) if VARIANTS[head].is_rival else best


def _best(folder: Path, variant: str, candidates: Iterable[Rates]) -> Rates:
    scores = {rates: float(read_run(rate_path(folder, variant, rates))["miou"]) for rates in candidates}
    return max(scores, key=scores.__getitem__)


def rates_table(folder: Path) -> str:
    """mIoU on the held-out images per head and rate, in Markdown; a dash where a run is missing."""
    header = ["Head", *(f"x{multiple:g}" for multiple in MULTIPLES), "fast classifier"]
    return markdown(header, [_row(folder, name) for name in HEADS])


def _row(folder: Path, name: str) -> list[str]:
    grid = [rate_path(folder, name, Rates(multiple)) for multiple in MULTIPLES]
    complete = VARIANTS[name].is_rival and _grid_is_complete(folder, name)
    fast = _cell(rate_path(folder, name, _fast(name, best_of_grid(folder, name)))) if complete else "-"
    return [VARIANTS[name].title, *map(_cell, grid), fast]


def _cell(path: Path) -> str:
    return f"{100 * read_run(path)['miou']:.1f}" if path.exists() else "-"


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = _parser().parse_args(arguments)
    data, folder = DATA[args.dataset], args.folder or folder_of(RATES_FOLDER, args.dataset)
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        recipe, commit = data.recipe(args.steps, args.precision), args.commit or head_commit()
        splits = data.hold_out(data.open(args.data, "train"))
        run_missing(grid(args.variants, recipe, folder), splits, commit=commit)
        run_missing(fast_classifiers(args.variants, recipe, folder), splits, commit=commit)
        print(rates_table(folder))
    except (RunError, DatasetError, PretrainedError, DivergedError, OSError) as error:
        print(f"rates: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rates", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--dataset", choices=DATA, default="camvid", help="the data set (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=HEADS, default=list(HEADS), metavar="HEAD")
    parser.add_argument("--steps", type=int, default=225, help="steps of every run (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: all")
    parser.add_argument("--folder", type=Path, help="where runs are written (default: rates[_DATASET]/)")
    parser.add_argument("--commit", help="commit of the code, where git cannot name it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
