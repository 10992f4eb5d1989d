"""``ecenet-export tensorrt``: engines for the graphs of a model directory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model_export.commands.base import Commands, default_directory
from service.model_directory.sizes import size_argument


def add_parser(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "tensorrt",
        help="build TensorRT engines, and report whether the attention of every SAU is fused",
        description="Build an engine for every input size of a model directory, for batches of 1 to 8. An SAU whose "
        "attention is not recognised as one fused kernel causes a warning. TensorRT builds on the GPU that runs the "
        "engine; TensorRT-RTX builds without a GPU too. Existing engines that fit are reused.",
    )
    parser.add_argument(
        "directory",
        type=Path,
        nargs="?",
        help="model directory, with graphs of the precision (default: that of ECENET_MODEL_DIR, else the bundled)",
    )
    parser.add_argument(
        "--runtime",
        choices=["auto", "tensorrt", "tensorrt-rtx"],
        default="auto",
        help="runtime of the engine; default: auto: TensorRT where it and a GPU are present, else TensorRT-RTX",
    )
    parser.add_argument(
        "--engine-dir",
        type=Path,
        help="folder of the engines (default: that of ECENET_ENGINE_DIR, else DIRECTORY/engines)",
    )
    parser.add_argument(
        "--size",
        type=size_argument,
        action="append",
        default=[],
        help="HEIGHTxWIDTH of an input; repeat it for several engines; default: all sizes of the directory",
    )
    parser.add_argument(
        "--precision",
        choices=["fp16", "int8", "fp8"],
        default="fp16",
        help="precision of the graphs; fp8 needs compute capability 8.9 or newer (default: fp16)",
    )
    parser.add_argument("--max-batch-size", type=int, default=8, help="largest batch of the engines (default: 8)")
    parser.add_argument("--force", action="store_true", help="build existing engines again")
    parser.add_argument(
        "--require-fused", action="store_true", help="fail where an SAU's attention is not one fused kernel"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Build, and say how many attentions are fused."""
    from service.engines.tensorrt.build import BuildOptions, build_engines  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    options = BuildOptions(
        runtime=args.runtime,
        sizes=tuple(args.size),
        precision=args.precision,
        max_batch_size=args.max_batch_size,
        force=args.force,
        require_fused=args.require_fused,
    )
    directory, folder = args.directory or default_directory(), args.engine_dir or Settings().engine_dir
    reports = build_engines(directory, folder, options, lambda line: print(line, file=sys.stderr))
    for report in reports:
        print(report)
    return 0
