"""``ecenet-export selfcheck``: the engine that would serve, proven on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from model_export.commands.base import Commands, default_directory
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
    parser.add_argument(
        "directory", type=Path, nargs="?", help="model directory (default: that of ECENET_MODEL_DIR, else the bundled)"
    )
    parser.add_argument("--engine", choices=ENGINE_NAMES, help="runtime; default: auto")
    parser.add_argument("--precision", choices=PRECISION_NAMES, help="precision of the graph; default: auto")
    parser.add_argument("--size", type=size_argument, help="HEIGHTxWIDTH of the graph; default: the model's first")
    parser.add_argument("--engine-dir", type=Path, help="folder of engines; default: engines in the directory")
    parser.add_argument("--engine-file", type=Path, help="an engine built elsewhere, which you trust")
    parser.add_argument("--repeats", type=int, help="timed runs of each batch size (default: 5; with --report 20)")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="also measure the service under load, and write machine, engine, times and expectations into "
        "selfcheck.json and selfcheck.html of this folder",
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="seconds of load for each number of clients (default: 5)"
    )
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Check, and print a row per batch size; or write a report."""
    if args.repeats is not None and args.repeats < 1:
        raise ValueError(f"--repeats is {args.repeats}, expected 1 or more")
    if args.seconds <= 0:
        raise ValueError(f"--seconds is {args.seconds:g}, expected more than 0")
    directory = args.directory or default_directory()
    return _check(directory, args) if args.report is None else _report(directory, args)


def _check(directory: Path, args: argparse.Namespace) -> int:
    from service.engines.base import closed_on_error  # noqa: PLC0415
    from service.engines.measured_choice import open_engine  # noqa: PLC0415
    from service.engines.selfcheck import BATCH_SIZES, self_check  # noqa: PLC0415
    from service.model_directory.golden import read_golden  # noqa: PLC0415
    from service.model_directory.manifest import read_manifest  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    manifest = read_manifest(directory)
    engine = open_engine(directory, manifest, Settings(**_given(args)).engine_options)
    with closed_on_error(engine):
        graph = engine.graph
        print(
            f"{manifest.name} {manifest.version} on {engine.name}: {graph.file}, {format_size(graph.input_size)}, "
            f"{graph.precision}, {graph.output}"
        )
        golden = read_golden(directory, manifest, graph.input_size)
        checked = self_check(engine, golden, BATCH_SIZES, args.repeats or 5)
    engine.close()
    print("batch  ms/batch  ms/image  agreement with PyTorch")
    for batch in checked:
        each = batch.milliseconds / batch.batch_size
        print(f"{batch.batch_size:5}  {batch.milliseconds:8.1f}  {each:8.1f}  {batch.agreement}")
    return 0


def _report(directory: Path, args: argparse.Namespace) -> int:
    from model_export.selfcheck_report.report import REPEATS, Plan, selfcheck_report, write_report  # noqa: PLC0415

    plan = Plan(repeats=args.repeats or REPEATS, seconds=args.seconds)
    report = selfcheck_report(directory, _given(args), plan)
    for path in write_report(args.report, report):
        print(path)
    if failure := report["failure"] or report["service"]["failure"]:
        raise RuntimeError(failure)
    verdicts = [row["held"] for row in report["expectations"]]
    print(f"{verdicts.count(True)} expectations held, {verdicts.count(False)} did not")
    return 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line names, and batches of 8; the rest comes from the environment."""
    named = {
        "engine": args.engine,
        "precision": args.precision,
        "input_size": args.size,
        "engine_dir": args.engine_dir,
        "engine_file": args.engine_file,
        "max_batch_size": 8,
    }
    return {name: value for name, value in named.items() if value is not None}
