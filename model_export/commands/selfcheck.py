"""``ecenet-export selfcheck``: the engine that would serve, proven on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from model_export.commands.base import Commands
from service.engines.runtimes import ENGINE_NAMES, PRECISION_NAMES
from service.model_directory.sizes import format_size, size_argument


def add_parser(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "selfcheck",
        help="run the stored golden inputs through the engine that would serve",
        description="Load the engine as ecenet-serve would, run the directory's golden inputs at batch 1, 2, 4 and 8, "
        "compare every row with PyTorch's stored outputs, and time the batches. Needs no PyTorch. "
        "Settings that are not given come from the environment (ECENET_...), as for ecenet-serve.",
    )
    parser.add_argument("directory", type=Path, help="model directory")
    parser.add_argument("--engine", choices=ENGINE_NAMES, help="runtime; default: auto")
    parser.add_argument("--precision", choices=PRECISION_NAMES, help="of the graph; default: auto")
    parser.add_argument("--size", type=size_argument, help="HEIGHTxWIDTH of the graph; default: the model's first")
    parser.add_argument("--engine-dir", type=Path, help="folder of engines; default: engines in the directory")
    parser.add_argument("--engine-file", type=Path, help="an engine built elsewhere, which you trust")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each batch size (default: 5)")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Check, and print a row per batch size."""
    if args.repeats < 1:
        raise ValueError(f"--repeats is {args.repeats}, expected 1 or more")
    from service.engines.create import create_engine  # noqa: PLC0415
    from service.engines.selfcheck import BATCH_SIZES, self_check  # noqa: PLC0415
    from service.model_directory.golden import read_golden  # noqa: PLC0415
    from service.model_directory.manifest import read_manifest  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    manifest = read_manifest(args.directory)
    engine = create_engine(args.directory, manifest, Settings(**_given(args, BATCH_SIZES[-1])).engine_options)
    try:
        graph = engine.graph
        print(
            f"{manifest.name} {manifest.version} on {engine.name}: {graph.file}, {format_size(graph.input_size)}, "
            f"{graph.precision}, {graph.output}"
        )
        golden = read_golden(args.directory, manifest, graph.input_size)
        checked = self_check(engine, golden, BATCH_SIZES, args.repeats)
    finally:
        engine.close()
    print("batch  ms/batch  ms/image  agreement with PyTorch")
    for batch in checked:
        each = batch.milliseconds / batch.batch_size
        print(f"{batch.batch_size:5}  {batch.milliseconds:8.1f}  {each:8.1f}  {batch.agreement}")
    return 0


def _given(args: argparse.Namespace, max_batch_size: int) -> dict[str, Any]:
    """The settings that the command line names; the rest comes from the environment."""
    named = {
        "engine": args.engine,
        "precision": args.precision,
        "input_size": args.size,
        "engine_dir": args.engine_dir,
        "engine_file": args.engine_file,
        "max_batch_size": max_batch_size,
    }
    return {name: value for name, value in named.items() if value is not None}
