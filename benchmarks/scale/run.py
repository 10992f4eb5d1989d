"""Simulate fleets of what calibration.json holds; write results.json, policies.png and batching.png.

    python -m benchmarks.scale.run

Equal arguments and an equal calibration give equal results.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.table import markdown
from benchmarks.scale.calibrate import origin
from benchmarks.scale.calibration import FILE, CalibrationError, read_calibration
from benchmarks.scale.fleet import simulate
from benchmarks.scale.plot import draw_batching, draw_policies
from benchmarks.scale.sweeps import ARRIVALS, Case, cases
from service.engines.cpus import available_cpus

FOLDER = Path(__file__).parent


def run_case(case: Case, requests: int, seed: int) -> dict[str, Any]:
    """One simulation: an entry of ``rows`` in results.json."""
    arrivals = ARRIVALS[case.arrivals](case.load * case.capacity_per_s, requests, seed)
    result = simulate(case.fleet, arrivals, seed)
    p50, p95, p99 = np.quantile(result.latencies_s, (0.5, 0.95, 0.99)).tolist()
    return {
        "sweep": case.sweep,
        "line": case.line,
        "load": case.load,
        "p50_ms": round(1000 * p50, 1),
        "p95_ms": round(1000 * p95, 1),
        "p99_ms": round(1000 * p99, 1),
        "rejected_share": round(result.rejected_share, 5),
        "expired_share": round(result.expired / result.arrived, 5),
        "utilisation": round(float(np.mean(result.utilisations)), 4),
    }


def events_table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows of the sweep ``events``."""
    header = ["arrivals", "load", "p50, ms", "p99, ms", "rejected"]
    cells = [
        [
            row["line"],
            f"{row['load']:.0%}",
            f"{row['p50_ms']:.0f}",
            f"{row['p99_ms']:.0f}",
            f"{row['rejected_share']:.1%}",
        ]
        for row in rows
        if row["sweep"] == "events"
    ]
    return markdown(header, cells)


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    try:
        calibration = read_calibration(args.calibration)
    except CalibrationError as error:
        print(f"run: {error}", file=sys.stderr)
        return 1
    simulate_one = partial(run_case, requests=args.requests, seed=args.seed)
    with ProcessPoolExecutor(available_cpus()) as processes:
        rows = list(processes.map(simulate_one, cases(calibration.models, args.requests), chunksize=4))
    content = {
        **asdict(origin("benchmarks.scale.run", arguments)),
        "calibration": asdict(calibration.origin),
        "rows": rows,
    }
    (args.folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw_policies(rows, args.folder / "policies.png")
    draw_batching(rows, args.folder / "batching.png")
    print(events_table(rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=5000, help="of each simulation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all random numbers (default: %(default)s)")
    parser.add_argument("--calibration", type=Path, default=FILE, help="file to read (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
