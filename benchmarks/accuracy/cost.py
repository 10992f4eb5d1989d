"""Parameters and operations of the named sizes, as a Markdown table. Nothing is computed and no weights are made.

python -m benchmarks.accuracy.cost --size 640 640 --classes 150 19
"""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks.accuracy.flops import count_flops
from benchmarks.accuracy.table import markdown
from benchmarks.accuracy.variants import parameters
from trainer.model.ecenet import NAMED_SIZES, ECENet, build_model


def build_meta(name: str, num_classes: int) -> ECENet:
    """A named size without memory for its weights."""
    with torch.device("meta"):
        return build_model(name, num_classes)


def cost_row(name: str, num_classes: int, size: tuple[int, int]) -> list[str]:
    """Name, classes, parameters of the whole and of the head in millions, GFLOPs for one image."""
    model = build_meta(name, num_classes)
    millions = [parameters(part) / 1e6 for part in (model, model.decode_head)]
    return [name, str(num_classes), *(f"{m:.2f}" for m in millions), f"{count_flops(model, size) / 1e9:.1f}"]


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs=2, type=int, default=[640, 640], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", nargs="+", type=int, default=[150, 19], metavar="K")
    args = parser.parse_args(arguments)
    height, width = args.size
    header = ["Size", "classes", "parameters, M", "of the head, M", f"GFLOPs at {height}x{width}"]
    print(markdown(header, [cost_row(name, k, (height, width)) for k in args.classes for name in NAMED_SIZES]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
