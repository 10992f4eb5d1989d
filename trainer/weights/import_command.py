"""The command line of ``ecenet-train import``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from service.model_directory.sizes import size_argument

EPILOG = """example:
  ecenet-train import released.ckpt -o checkpoint.pt
  ecenet-export onnx checkpoint.pt -o models/ecenet-swin-base-ade20k
"""


def main(arguments: list[str]) -> int:
    """``ecenet-train import``; gives the exit status."""
    args = argument_parser().parse_args(arguments)
    from trainer.weights.import_released import import_weights  # noqa: PLC0415

    try:
        report = import_weights(args.source, args.output, dataset=args.dataset, classes=args.classes, size=args.size)
    except (ValueError, OSError) as error:
        print(f"ecenet-train import: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{report.keys()}\n{report}" if args.keys else report)  # noqa: T201
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """Give the command's options and arguments."""
    parser = argparse.ArgumentParser(
        prog="ecenet-train import",
        description="Turn the authors' released weights into a checkpoint, with every key accounted for.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="the MindSpore checkpoint, or a torch file with the same keys")
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument("--dataset", help="dataset that names the classes (default: the one with as many classes)")
    classes.add_argument(
        "--classes", type=Path, help="classes.json with names and colours of the classes, in place of --dataset"
    )
    parser.add_argument("--size", type=size_argument, help="HEIGHTxWIDTH of the input in pixels (default: 640x640)")
    parser.add_argument("--keys", action="store_true", help="list each key with our name for it and its shape")
    return parser
