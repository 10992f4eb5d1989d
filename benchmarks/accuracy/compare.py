"""Train ECENet, rival heads on its backbone and ECENet with parts taken out, all by one recipe: see README.md.

    python -m benchmarks.accuracy.compare --data DATA/camvid --threads 1

Each head has the rates that ``benchmarks.accuracy.rates`` found for it. The command skips finished runs and continues a
stopped one from its checkpoint; several processes on one folder share the runs out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import torch

from benchmarks.accuracy.data import DATA, folder_of
from benchmarks.accuracy.experiment import Experiment, head_commit, run_missing
from benchmarks.accuracy.rates import Rates, chosen_rates
from benchmarks.accuracy.recipe import Recipe
from benchmarks.accuracy.runs import FOLDER, RATES_FOLDER, RunError, run_path
from benchmarks.accuracy.variants import COMPARED, VARIANTS
from trainer.datasets import DatasetError
from trainer.memory import keep_freed_memory
from trainer.training_loop import DivergedError
from trainer.weights.pretrained import PretrainedError


def experiments(
    variants: Sequence[str], seeds: Iterable[int], recipe: Recipe, *, folder: Path, rates: Path, multiple: float | None
) -> list[Experiment]:
    """The runs, all variants with the first seed before any with the second.

    Args:
        variants: Names.
        seeds: Of weights, order, views and dropout.
        recipe: But for the head's rates.
        folder: Of the runs' files.
        rates: Folder of the runs from which each head's rates are read.
        multiple: The rate of all heads in place of those; classifiers have the variant's own.

    Raises:
        RunError: A run from which a rate is read is missing.
    """
    own = {name: chosen_rates(rates, name) if multiple is None else Rates(multiple) for name in variants}
    return [
        Experiment(name, seed, own[name].applied_to(recipe), run_path(folder, name, seed))
        for seed, name in product(seeds, variants)
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = _parser().parse_args(arguments)
    data = DATA[args.dataset]
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        runs = experiments(
            args.variants,
            args.seeds,
            data.recipe(args.steps, args.precision),
            folder=args.folder or folder_of(FOLDER, args.dataset),
            rates=args.rates or folder_of(RATES_FOLDER, args.dataset),
            multiple=args.head_lr_multiple,
        )
        run_missing(runs, data.splits(args.data), commit=args.commit or head_commit())
    except (RunError, DatasetError, PretrainedError, DivergedError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--dataset", choices=DATA, default="camvid", help="the data set (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(COMPARED), metavar="VARIANT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--steps", type=int, default=450, help="steps of every run (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: %(default)s")
    parser.add_argument("--head-lr-multiple", type=float, help="every head's rate per backbone's, not that of --rates")
    parser.add_argument("--rates", type=Path, help="runs of the rates (default: rates[_DATASET]/)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: all")
    parser.add_argument("--folder", type=Path, help="where runs are written (default: comparison[_DATASET]/)")
    parser.add_argument("--commit", help="commit of the code, where git cannot name it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
