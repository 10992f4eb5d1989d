"""``ecenet-export onnx``: a checkpoint to a model directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from model_export.commands.base import Commands
from service.model_directory.sizes import format_size, size_argument

if TYPE_CHECKING:
    from model_export.onnx_export import GraphReport

_STRIDES = {"cells": 4, "image": 1}


def add_parser(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "onnx",
        help="write the model directory of a checkpoint, and compare its graphs with PyTorch",
        description="Export a checkpoint to ONNX with one Attention node per SAU; fails if a graph does not agree.",
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of ecenet-train, or the released weights")
    parser.add_argument("-o", "--directory", type=Path, required=True, help="model directory to write")
    parser.add_argument(
        "--size",
        type=size_argument,
        action="append",
        default=[],
        help="HEIGHTxWIDTH of the input in pixels; repeat it for several graphs, of which the first is the default; "
        "default: the checkpoint's",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16"],
        action="append",
        default=[],
        help="arithmetic; repeat it for both; default: fp32. TensorRT fuses attention in fp16",
    )
    parser.add_argument(
        "--output", choices=["logits", "labels"], default="logits", help="labels: the argmax is part of the graph"
    )
    parser.add_argument(
        "--labels-at",
        choices=list(_STRIDES),
        help="image: a label for each pixel of the input; cells: for each cell of 4x4 pixels (default: image)",
    )
    parser.add_argument("--name", help="model name; default: the directory's")
    parser.add_argument("--version", default="1.0.0", help="version of the weights (default: 1.0.0)")
    parser.add_argument("--data-note", default="", help="training data of the weights; default: the checkpoint's")
    parser.add_argument("--license-note", help="terms of weights and data (default: the terms of the first weights)")
    parser.add_argument(
        "--images",
        type=Path,
        help="image, folder of images, or dataset to compare on; two images become golden inputs; default: generated "
        "images",
    )
    parser.add_argument("--count", type=int, default=4, help="number of images to compare on (default: 4)")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Export, and say how well each graph agrees with PyTorch."""
    if args.labels_at and args.output == "logits":
        raise ValueError("--labels-at is for --output labels")
    from model_export.onnx_export import GraphForms, ModelFacts, export_onnx  # noqa: PLC0415

    stride = _STRIDES[args.labels_at or "image"] if args.output == "labels" else None
    forms = GraphForms(tuple(args.size), tuple(args.precision or ["fp32"]), stride)
    name = args.name or args.directory.resolve().name
    facts = ModelFacts(name, args.version, args.data_note, args.license_note)
    reports = export_onnx(args.checkpoint, args.directory, facts, forms, images=args.images, count=args.count)
    print(*map(report_text, reports), sep="\n")
    print(f"compared with PyTorch on {'real' if args.images else 'generated'} images")
    return 0


def report_text(report: GraphReport) -> str:
    """A line on a graph that was written."""
    graph, megabytes = report.info, report.path.stat().st_size / 1e6
    return (
        f"{report.path}: {megabytes:.1f} MB, input {format_size(graph.input_size)}, {graph.precision}, "
        f"{graph.output}, {report.attentions} attentions; {report.agreement}"
    )
