"""One replica, simulated and real, under the same arrivals; exit status 1 beyond 15%.

    python -m benchmarks.scale.validate

Results go to validation.json; services that were not measured keep their rows there.

Before each share of its capacity a service is calibrated by other arrivals (see calibrate.py). Then it gets Poisson
arrivals, and the simulation the moments at which they were sent. Let the machine do nothing else meanwhile.

A shared machine is not as fast in one minute as in the next, and near the capacity one percent of that is ten of a
latency. So the simulated times are those of the calibration times the drift: how much longer the engine took for its
batches than in a first simulation. The drift is printed beside the errors.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.table import markdown
from benchmarks.scale.arrivals import poisson
from benchmarks.scale.calibrate import calibrate, describe, origin
from benchmarks.scale.calibration import CalibrationError, Origin
from benchmarks.scale.fleet import Fleet, Result, simulate
from benchmarks.scale.load import Exchange, replay
from benchmarks.scale.service_model import ServiceModel
from benchmarks.scale.subject import SUBJECTS, Batch, RunningService, SubjectError, SubjectName, running

FILE = Path(__file__).parent / "validation.json"
LARGEST_ERROR = 0.15
_MEASURES = ("mean", "p50", "p95", "p99")
# Draws of the simulated times; the real service has one draw.
_RUNS = 20


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two.

    Attributes:
        latency_ms: Mean and percentiles of the answered requests.
        rejected_share: Of all requests.
        utilisation: Share of the time that the engine was busy.
        mean_batch: Images.
    """

    latency_ms: Mapping[str, float]
    rejected_share: float
    utilisation: float
    mean_batch: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A service at one load.

    Attributes:
        subject: Which service.
        load: Mean arrivals a second over the capacity.
        requests: How many were sent.
        drift: Factor on all simulated times: the engine's seconds for its batches over those by the calibration.
        measured: By the real service.
        simulated: By the simulation.
    """

    subject: str
    load: float
    requests: int
    drift: float
    measured: Side
    simulated: Side

    def errors(self) -> dict[str, float]:
        """Simulated over measured, less 1, by measure."""
        return {
            name: self.simulated.latency_ms[name] / self.measured.latency_ms[name] - 1
            for name in self.measured.latency_ms
        }

    @property
    def is_near(self) -> bool:
        """True if every error is within ``LARGEST_ERROR``."""
        return all(abs(error) <= LARGEST_ERROR for error in self.errors().values())


def compare(name: SubjectName, loads: Iterable[float], seconds: float) -> list[Comparison]:
    """Calibrate a service and compare it with its simulation, at each load for so many seconds.

    Raises:
        SubjectError, CalibrationError: The service did not start, or answered nothing.
    """
    with running(name) as service:
        return [_compare_at(service, name, load, seconds) for load in loads]


def _compare_at(service: RunningService, name: SubjectName, load: float, seconds: float) -> Comparison:
    model = calibrate(service, seconds)
    print(f"{name}: {describe(model)}", file=sys.stderr, flush=True)
    rate = load * model.capacity_per_s
    times = poisson(rate, max(1, round(rate * seconds)), seed=round(1000 * load))
    before = len(service.batches())
    exchanges = replay(service.url, service.image, times)
    batches = service.batches()[before:]
    drift = engine_s_ratio(model, batches, simulated(model, exchanges))
    sides = measured_side(exchanges, batches), simulated_side(simulated(model, exchanges, drift))
    compared = Comparison(name, load, len(exchanges), drift, *sides)
    print("  ".join(_cells(compared)), file=sys.stderr, flush=True)
    return compared


def measured_side(exchanges: Sequence[Exchange], batches: Sequence[Batch]) -> Side:
    """Sum up a real run."""
    answered = [exchange for exchange in exchanges if exchange.status == 200]
    elapsed_s = max(exchange.sent_s + exchange.latency_s for exchange in exchanges)
    return Side(
        latency_ms=latency_ms(np.array([exchange.latency_s for exchange in answered])),
        rejected_share=sum(exchange.status == 503 for exchange in exchanges) / len(exchanges),
        utilisation=sum(batch.seconds for batch in batches) / elapsed_s,
        mean_batch=float(np.mean([batch.size for batch in batches])),
    )


def simulated(model: ServiceModel, exchanges: Sequence[Exchange], drift: float = 1.0) -> list[Result]:
    """Runs of one replica, all times multiplied by the drift, for the moments at which real requests were sent."""
    times = np.array([exchange.sent_s for exchange in exchanges])
    fleet = Fleet(model, tries=1, slowdowns={0: drift})
    return [simulate(fleet, times, seed) for seed in range(_RUNS)]


def engine_s_ratio(model: ServiceModel, batches: Sequence[Batch], results: Sequence[Result]) -> float:
    """The engine's seconds, measured over simulated, each in proportion to what batches of their sizes should take."""
    measured_s = sum(batch.seconds for batch in batches)
    simulated_s = sum(result.utilisations[0] * result.duration_s for result in results)
    expected_s = sum(model.costs.contended_engine_s(batch.size) for batch in batches)
    by_sizes = [size_and_count for result in results for size_and_count in result.batch_sizes.items()]
    expected_of_results_s = sum(count * model.costs.contended_engine_s(size) for size, count in by_sizes)
    return measured_s / expected_s / (simulated_s / expected_of_results_s)


def simulated_side(results: Sequence[Result]) -> Side:
    """Sum up runs of the simulation."""
    sizes = [size for result in results for size, count in result.batch_sizes.items() for _ in range(count)]
    return Side(
        latency_ms=latency_ms(np.concatenate([result.latencies_s for result in results])),
        rejected_share=float(np.mean([result.rejected_share for result in results])),
        utilisation=float(np.mean([result.utilisations[0] for result in results])),
        mean_batch=float(np.mean(sizes)),
    )


def latency_ms(latencies_s: NDArray[np.float64]) -> dict[str, float]:
    """Mean and percentiles in milliseconds."""
    values = (np.mean(latencies_s), *np.percentile(latencies_s, [50, 95, 99]))
    return {name: round(1000 * float(value), 2) for name, value in zip(_MEASURES, values, strict=True)}


def write_validation(path: Path, measured_by: Origin, by_service: Mapping[str, Sequence[Comparison]]) -> None:
    """Put services into the file; its other services stay."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, rows in by_service.items():
        known[name] = {"origin": asdict(measured_by), "rows": [asdict(row) | {"errors": row.errors()} for row in rows]}
    content = {name: known[name] for name in SUBJECTS if name in known}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_validation(path: Path = FILE) -> dict[str, tuple[Origin, list[Comparison]]]:
    """By service what the file holds."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: (Origin(**part["origin"]), list(map(_comparison, part["rows"]))) for name, part in content.items()}


def _comparison(row: Mapping[str, Any]) -> Comparison:
    sides = {name: Side(**row[name]) for name in ("measured", "simulated")}
    return Comparison(row["subject"], row["load"], row["requests"], row["drift"], **sides)


def table(comparisons: Iterable[Comparison]) -> str:
    """A row per service and load: measured and simulated milliseconds with the error between them."""
    measures = [f"{name}, ms" for name in _MEASURES]
    header = ["service", "load", "requests", "drift", *measures, "engine busy", "mean batch"]
    return markdown(header, [_cells(compared) for compared in comparisons])


def _cells(compared: Comparison) -> list[str]:
    measured, simulated, errors = compared.measured, compared.simulated, compared.errors()
    return [
        compared.subject,
        f"{compared.load:.0%}",
        str(compared.requests),
        f"{compared.drift - 1:+.1%}",
        *(
            f"{measured.latency_ms[name]:.0f} / {simulated.latency_ms[name]:.0f} ({errors[name]:+.0%})"
            for name in _MEASURES
        ),
        f"{measured.utilisation:.0%} / {simulated.utilisation:.0%}",
        f"{measured.mean_batch:.2f} / {simulated.mean_batch:.2f}",
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    try:
        by_service = {name: compare(name, args.loads, args.seconds) for name in args.services}
    except (CalibrationError, SubjectError) as error:
        print(f"validate: {error}", file=sys.stderr)
        return 1
    write_validation(args.output, origin("benchmarks.scale.validate", arguments), by_service)
    comparisons = [row for rows in by_service.values() for row in rows]
    print("Measured / simulated (error).\n\n" + table(comparisons))
    far = [row for row in comparisons if not row.is_near]
    for row in far:
        print(f"validate: {row.subject} at {row.load:.0%}: further off than {LARGEST_ERROR:.0%}", file=sys.stderr)
    return 1 if far else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="validate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="which (default: both)")
    parser.add_argument(
        "--loads",
        nargs="+",
        type=float,
        default=[0.3, 0.5, 0.7, 0.85],
        metavar="SHARE",
        help="of the capacity (default: 0.3 0.5 0.7 0.85)",
    )
    parser.add_argument("--seconds", type=float, default=90, help="at each load (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=FILE, help="file to write (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
