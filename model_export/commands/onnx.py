"""``ecenet-export onnx``: a checkpoint to a model directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from model_export.commands.base import Commands
from model_export.sizes import format_size, size_argument


def add_parser(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "onnx",
        help="write model.onnx and manifest.json, and compare them with PyTorch",
        description="Export a checkpoint to ONNX with one Attention node per SAU; fails if the graph does not agree.",
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of ecenet-train, or the released weights")
    parser.add_argument("-o", "--directory", type=Path, required=True, help="model directory to write")
    parser.add_argument(
        "--size", type=size_argument, help="HEIGHTxWIDTH of the input in pixels; default: the checkpoint's"
    )
    parser.add_argument("--name", help="model name; default: the directory's")
    parser.add_argument("--version", default="1.0.0", help="version of the weights (default: 1.0.0)")
    parser.add_argument("--data-note", default="", help="what the weights were trained on; default: the checkpoint's")
    parser.add_argument("--license-note", default="", help="terms of weights and data")
    parser.add_argument("--images", type=Path, help="folder of images to compare on; default: generated ones")
    parser.add_argument("--count", type=int, default=4, help="how many images to compare on (default: 4)")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Export, and say how well the graph agrees with PyTorch."""
    from model_export.onnx_export import ModelFacts, export_onnx  # noqa: PLC0415

    facts = ModelFacts(args.name or args.directory.name, args.version, args.data_note, args.license_note)
    report = export_onnx(args.checkpoint, args.directory, facts, size=args.size, images=args.images, count=args.count)
    megabytes = report.graph.stat().st_size / 1e6
    print(f"{report.graph}: {megabytes:.1f} MB, input {format_size(report.input_size)}, {report.attentions} attentions")
    print(
        f"PyTorch and ONNX Runtime on {'real' if args.images else 'generated'} images: "
        f"largest logit error {report.parity.max_logit_error:.1e}, equal labels {report.parity.equal_labels:.3%}"
    )
    return 0
