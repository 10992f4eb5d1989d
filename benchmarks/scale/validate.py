"""One replica, simulated and real, under the same arrivals; write validation.json, exit status 1 beyond 15%.

    python -m benchmarks.scale.validate

Each service is calibrated first, by other arrivals (see calibrate.py). Then it gets Poisson arrivals at each share of
its capacity, and the simulation the moments at which they were sent. Let the machine do nothing else meanwhile: the
service's times must be those that were calibrated.
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
from benchmarks.scale.calibration import CalibrationError
from benchmarks.scale.fleet import Fleet, simulate
from benchmarks.scale.load import Exchange, replay
from benchmarks.scale.service_model import ServiceModel
from benchmarks.scale.subject import SUBJECTS, Batch, RunningService, SubjectError, SubjectName, running

FILE = Path(__file__).parent / "validation.json"
LARGEST_ERROR = 0.15
_MEASURES = ("mean", "p50", "p95", "p99")
# The simulation draws its times anew so often; the real service has one draw.
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
        measured: By the real service.
        simulated: By the simulation.
    """

    subject: str
    load: float
    requests: int
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
        """Whether no error is beyond the bound."""
        return all(abs(error) <= LARGEST_ERROR for error in self.errors().values())


def compare(name: SubjectName, loads: Iterable[float], seconds: float) -> list[Comparison]:
    """Calibrate a service and compare it with its simulation at each load, so many seconds at each.

    Raises:
        SubjectError, CalibrationError: The service did not start, or answered nothing.
    """
    with running(name) as service:
        model = calibrate(service, seconds)
        print(f"{name}: {describe(model)}", file=sys.stderr, flush=True)
        return [_compare_at(service, name, model, load, seconds) for load in loads]


def _compare_at(
    service: RunningService, name: SubjectName, model: ServiceModel, load: float, seconds: float
) -> Comparison:
    rate = load * model.capacity_per_s
    times = poisson(rate, max(1, round(rate * seconds)), seed=round(1000 * load))
    before = len(service.batches())
    exchanges = replay(service.url, service.image, times)
    measured = measured_side(exchanges, service.batches()[before:])
    compared = Comparison(name, load, len(exchanges), measured, simulated_side(model, exchanges))
    print("  ".join(_cells(compared)), file=sys.stderr, flush=True)
    return compared


def measured_side(exchanges: Sequence[Exchange], batches: Sequence[Batch]) -> Side:
    """What a real run comes to."""
    answered = [exchange for exchange in exchanges if exchange.status == 200]
    elapsed_s = max(exchange.sent_s + exchange.latency_s for exchange in exchanges)
    return Side(
        latency_ms=latency_ms(np.array([exchange.latency_s for exchange in answered])),
        rejected_share=sum(exchange.status == 503 for exchange in exchanges) / len(exchanges),
        utilisation=sum(batch.seconds for batch in batches) / elapsed_s,
        mean_batch=float(np.mean([batch.size for batch in batches])),
    )


def simulated_side(model: ServiceModel, exchanges: Sequence[Exchange]) -> Side:
    """What the simulation comes to for the moments at which real requests were sent."""
    times = np.array([exchange.sent_s for exchange in exchanges])
    results = [simulate(Fleet(model, tries=1), times, seed) for seed in range(_RUNS)]
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


def comparison(row: Mapping[str, Any]) -> Comparison:
    """An entry of ``rows`` in validation.json as it was written."""
    sides = {name: Side(**row[name]) for name in ("measured", "simulated")}
    return Comparison(row["subject"], row["load"], row["requests"], **sides)


def table(comparisons: Iterable[Comparison]) -> str:
    """A row per service and load: measured and simulated milliseconds with the error between them."""
    header = ["service", "load", "requests", *(f"{name}, ms" for name in _MEASURES), "engine busy", "mean batch"]
    return markdown(header, [_cells(compared) for compared in comparisons])


def _cells(compared: Comparison) -> list[str]:
    measured, simulated, errors = compared.measured, compared.simulated, compared.errors()
    return [
        compared.subject,
        f"{compared.load:.0%}",
        str(compared.requests),
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
        comparisons = [row for name in args.services for row in compare(name, args.loads, args.seconds)]
    except (CalibrationError, SubjectError) as error:
        print(f"validate: {error}", file=sys.stderr)
        return 1
    content = {
        **asdict(origin("benchmarks.scale.validate", arguments)),
        "largest_error": LARGEST_ERROR,
        "rows": [asdict(row) | {"errors": row.errors()} for row in comparisons],
    }
    args.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
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
