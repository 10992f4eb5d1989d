"""``ecenet-export RUN -o DIR``: a training run to a model directory with every graph, calibrated and verified."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from model_export.commands import verify
from model_export.commands.base import Commands
from model_export.commands.onnx import report_text
from model_export.commands.quantize import graph_text

NAME = "model"


def add_parser(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        NAME,
        help="do all of this for a training run; the word 'model' may be omitted",
        description="Export a training run in fp32, fp16 and INT8, calibrated on its training images, with golden "
        "outputs of PyTorch, and verify every graph on the labelled images of val.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a training run, or a checkpoint")
    parser.add_argument("-o", "--directory", type=Path, required=True, help="model directory to write")
    parser.add_argument("--data", type=Path, help="folder of the dataset (default: the run's)")
    parser.add_argument("--name", help="model name (default: the directory's)")
    parser.add_argument("--version", default="1.0.0", help="version of the weights (default: 1.0.0)")
    parser.add_argument("--license-note", help="terms of weights and data (default: the terms of the first weights)")
    parser.add_argument("--no-int8", action="store_true", help="write no INT8 graph")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Export, quantise and verify; gives the exit status of the verification."""
    from model_export.from_run import export_run, find_run  # noqa: PLC0415
    from model_export.onnx_export import ModelFacts  # noqa: PLC0415

    source = find_run(args.run, args.data)
    facts = ModelFacts(
        args.name or args.directory.resolve().name,
        args.version,
        f"{source.data.resolve().name}, train split",
        args.license_note,
    )
    exported = export_run(source, args.directory, facts, int8=not args.no_int8, report=_report)
    print(*map(report_text, exported.graphs), *map(graph_text, exported.int8), sep="\n")
    if exported.int8_fault is not None:
        print(f"there is no INT8 graph: {exported.int8_fault}")
    status = verify.run(_verification(args.directory, source.data, source.kind, source.labelled_split))
    directory = shlex.quote(str(args.directory))
    if status:
        print(f"next: ecenet-export remove {directory} GRAPH, for each that FAILS; more images in val tell better")
    else:
        print(f"next: ecenet-serve --model-dir {directory}")
    return status


def _report(line: str) -> None:
    print(line, flush=True)


def _verification(directory: Path, data: Path, kind: str, split: str) -> argparse.Namespace:
    """The arguments of ``verify`` for every graph."""
    parser = argparse.ArgumentParser()
    verify.add_parser(parser.add_subparsers())
    options = ["--data", str(data), "--dataset", kind, "--split", split]
    return parser.parse_args(["verify", str(directory), *options])
