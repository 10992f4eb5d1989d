"""``ecenet-export``: turn a checkpoint into the model directory that the service reads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """example:
  ecenet-export onnx runs/camvid/best.pt -o models/my-model
  ecenet-serve --model-dir models/my-model
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = _parser().parse_args(arguments)
    try:
        return int(args.command(args))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"ecenet-export: {error}", file=sys.stderr)
        return 1


def export(args: argparse.Namespace) -> int:
    """``onnx``: export, and say how well the graph agrees with PyTorch."""
    from model_export.onnx_export import ModelFacts, export_onnx  # noqa: PLC0415

    facts = ModelFacts(args.name or args.output.name, args.version, args.data_note, args.license_note)
    report = export_onnx(args.checkpoint, args.output, facts, size=args.size, images=args.images, count=args.count)
    height, width = report.input_size
    megabytes = report.graph.stat().st_size / 1e6
    print(f"{report.graph}: {megabytes:.1f} MB, input {height}x{width}, {report.attentions} attentions")
    print(
        f"PyTorch and ONNX Runtime on {'real' if args.images else 'generated'} images: "
        f"largest logit error {report.parity.max_logit_error:.1e}, equal labels {report.parity.equal_labels:.3%}"
    )
    return 0


def parse_size(text: str) -> tuple[int, int]:
    """``HEIGHTxWIDTH`` in pixels."""
    height, _, width = text.partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HEIGHTxWIDTH, e.g. 540x720") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecenet-export",
        description="Turn a checkpoint into the model directory that ecenet-serve reads.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    onnx = commands.add_parser(
        "onnx",
        help="write model.onnx and manifest.json, and compare them with PyTorch",
        description="Export a checkpoint to ONNX with one Attention node per SAU; fails if the graph does not agree.",
    )
    onnx.add_argument("checkpoint", type=Path, help="a checkpoint of ecenet-train, or the released weights")
    onnx.add_argument("-o", "--output", type=Path, required=True, help="model directory to write")
    onnx.add_argument("--size", type=parse_size, help="HEIGHTxWIDTH of the input in pixels; default: the checkpoint's")
    onnx.add_argument("--name", help="model name; default: the directory's")
    onnx.add_argument("--version", default="1.0.0", help="version of the weights (default: 1.0.0)")
    onnx.add_argument("--data-note", default="", help="what the weights were trained on; default: the checkpoint's")
    onnx.add_argument("--license-note", default="", help="terms of weights and data")
    onnx.add_argument("--images", type=Path, help="folder of images to compare on; default: generated ones")
    onnx.add_argument("--count", type=int, default=4, help="how many images to compare on (default: 4)")
    onnx.set_defaults(command=export)
    return parser


if __name__ == "__main__":
    sys.exit(main())
