"""``ecenet-export``: turn a checkpoint into the model directory that the service reads, and prove what it holds."""

from __future__ import annotations

import argparse
import sys

from model_export.commands import inspect, onnx, quantize, selfcheck, tensorrt, verify

EPILOG = """example:
  ecenet-export onnx runs/camvid/best.pt -o models/my-model --precision fp32 --precision fp16
  ecenet-export verify models/my-model --data data/camvid
  ecenet-export selfcheck models/my-model
  ecenet-serve --model-dir models/my-model
"""
COMMANDS = (onnx, quantize, selfcheck, inspect, verify, tensorrt)


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = argument_parser().parse_args(arguments)
    try:
        return int(args.command(args))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"ecenet-export: {error}", file=sys.stderr)
        return 1


def argument_parser() -> argparse.ArgumentParser:
    """Give the command's options and arguments."""
    parser = argparse.ArgumentParser(
        prog="ecenet-export",
        description="Turn a checkpoint into the model directory that ecenet-serve reads, and prove what it holds.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
