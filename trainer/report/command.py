"""``ecenet-train report``: one HTML file on a training run, or on several side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

COMPARISON = "comparison.html"
EPILOG = """example:
  ecenet-train report runs/my-data
  ecenet-train report runs/camvid --data data/camvid --split test --output test.html
  ecenet-train report runs/a runs/b runs/c --output comparison.html
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = argument_parser().parse_args(arguments)
    from trainer.report.comparison import compare_runs  # noqa: PLC0415
    from trainer.report.run_report import report_folder  # noqa: PLC0415

    try:
        if len(args.run) == 1:
            path = report_folder(args.run[0], args.data, args.split, args.output, _progress)
        else:
            path = args.output or Path(COMPARISON)
            compare_runs(args.run, path)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")  # noqa: T201
    except (ValueError, OSError) as error:
        print(f"ecenet-train report: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _progress(indices: Iterable[int]) -> Iterable[int]:
    from tqdm import tqdm  # noqa: PLC0415

    return tqdm(indices, unit="image", mininterval=1)


def argument_parser() -> argparse.ArgumentParser:
    """Give the command's options and arguments."""
    parser = argparse.ArgumentParser(
        prog="ecenet-train report",
        description="Write one HTML file on a training run: curves, classes, confusion, best and worst images; on "
        "several runs: their curves and classes side by side, as they were evaluated while they were trained.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, nargs="+", help="the run's folder, which holds log.jsonl and best.pt")
    parser.add_argument("--data", type=Path, help="folder of the dataset (default: the run's)")
    parser.add_argument(
        "--output", type=Path, help=f"file to write (default: report.html of the run; for several runs {COMPARISON})"
    )
    parser.add_argument("--split", default="val", help="split to evaluate (default: val)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
