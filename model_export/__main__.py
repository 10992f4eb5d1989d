"""``ecenet-export``: turn a checkpoint into the model directory that the service reads, and verify its content."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model_export.commands import inspect, model, onnx, quantize, remove, selfcheck, tensorrt, verify
from service.model_directory.extras import needing_extra

EPILOG = """example:
  ecenet-export runs/my-data -o models/mine
  ecenet-export onnx runs/camvid/best.pt -o models/my-model --precision fp32 --precision fp16
  ecenet-export verify models/my-model --data data/camvid
  ecenet-export selfcheck models/my-model
  ecenet-serve --model-dir models/my-model
"""
INTERRUPTED = 130
COMMANDS = (model, onnx, quantize, remove, selfcheck, inspect, verify, tensorrt)


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = argument_parser().parse_args(with_command(sys.argv[1:] if arguments is None else arguments))
    try:
        with needing_extra("export"):
            return int(args.command(args))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"ecenet-export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ecenet-export: stopped", file=sys.stderr)
        return INTERRUPTED


def with_command(arguments: list[str]) -> list[str]:
    """The arguments with the command ``model`` where a path replaces the command."""
    names = {module.__name__.rpartition(".")[2] for module in COMMANDS}
    is_path = bool(arguments) and not arguments[0].startswith("-") and arguments[0] not in names
    return [model.NAME, *arguments] if is_path and _looks_like_a_path(arguments[0]) else arguments


def _looks_like_a_path(text: str) -> bool:
    """True for a path, False for a mistyped command."""
    return "/" in text or Path(text).exists()


def argument_parser() -> argparse.ArgumentParser:
    """Give the command's options and arguments."""
    parser = argparse.ArgumentParser(
        prog="ecenet-export",
        description="Turn a checkpoint into the model directory that ecenet-serve reads, and verify its content.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
