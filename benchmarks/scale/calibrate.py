"""Measure the real service on this machine; write calibration.json.

    python -m benchmarks.scale.calibrate

Each service first gets one request at a time with pauses between them, which measures what a request costs beside its
stages, and what they take beside an idle engine. Then it has so many clients that images always wait for the engine,
which measures how soon after a batch the next one begins, and what it takes while others are decoded. Then come Poisson
arrivals at 75% of that rate, which measure the stages of a request that has to wait.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path

import numpy as np

from benchmarks.accuracy.experiment import head_commit
from benchmarks.attention.run import processor
from benchmarks.scale.arrivals import poisson
from benchmarks.scale.calibration import (
    FILE,
    Calibration,
    CalibrationError,
    Measured,
    Origin,
    fit_costs,
    write_calibration,
)
from benchmarks.scale.load import replay, saturate
from benchmarks.scale.service_model import ServiceModel, mean
from benchmarks.scale.subject import SUBJECTS, RunningService, SubjectError, running

# Between the starts of two requests that are to be alone, in times of one: as long as the caches need to forget.
_PAUSE = 3
# Clients per largest batch: the next batch is ready when one ends, but is not always full, and sizes differ.
_CROWDS = (1.25, 1.75)
# Enough images have to wait, and the queue does not grow.
_LOAD = 0.75
_SEED = 1


def calibrate(service: RunningService, seconds: float) -> ServiceModel:
    """Measure a service for about so many seconds.

    Raises:
        CalibrationError: It answered nothing.
    """
    part_s = seconds / 4
    hot = saturate(service.url, service.image, 1, part_s / 5)
    start = len(service.batches())
    alone = replay(service.url, service.image, np.arange(0, part_s, _PAUSE * mean([one.latency_s for one in hot])))
    end = len(service.batches())
    clients = [math.ceil(share * service.limits.max_batch_size) for share in _CROWDS]
    crowds = [saturate(service.url, service.image, count, part_s / len(clients)) for count in clients]
    batches = service.batches()
    rate = _LOAD * sum(map(len, crowds)) / part_s
    typical = replay(service.url, service.image, poisson(rate, max(1, round(rate * 2 * part_s)), _SEED))
    measured = Measured(alone, batches[start:end], batches[end:], typical)
    return ServiceModel(fit_costs(measured, service.limits), service.limits)


def origin(module: str, arguments: list[str]) -> Origin:
    """This machine, this commit, and the command."""
    command = shlex.join(["python", "-m", module, *arguments])
    return Origin(command, head_commit(), processor(Path("/proc/cpuinfo").read_text(encoding="utf-8")))


def describe(model: ServiceModel) -> str:
    """Measured times and the capacity, in one line."""
    costs = model.costs
    parts = {
        "overhead": costs.overhead_s,
        "decode": costs.before_s,
        "decode beside a busy engine": costs.contended_before_s,
        "labels and encode": costs.after_s,
        "handoff per image": costs.handoff_s,
    }
    means = ", ".join(f"{name} {1000 * mean(samples):.1f} ms" for name, samples in parts.items())
    batch = (
        f"a batch of b takes {1000 * costs.engine_fixed_s:.1f} + {1000 * costs.engine_per_image_s:.1f} b ms, and "
        f"{1000 * costs.contention_s:.1f} ms for each decode meanwhile"
    )
    return f"{batch}; {means}; capacity {model.capacity_per_s:.1f} images/s"


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    models: dict[str, ServiceModel] = {}
    try:
        for name in SUBJECTS:
            with running(name) as service:
                models[name] = model = calibrate(service, args.seconds)
            print(f"{name}: {describe(model)}", flush=True)
    except (CalibrationError, SubjectError) as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 1
    write_calibration(Calibration(origin("benchmarks.scale.calibrate", arguments), models), args.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="load on each service (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=FILE, help="file to write (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
