"""Measured times to the costs of the simulation, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale.load import Exchange
from benchmarks.scale.service_model import Costs, Limits, Samples, ServiceModel
from benchmarks.scale.subject import Batch

FILE = Path(__file__).parent / "calibration.json"
# So many quantiles stand for all measured values of a kind.
_QUANTILES = 200
# An image that waits for longer than the window has met a busy engine, however late the event loop was.
_BUSY_S = 0.002
_WORK = ("decode", "queue", "infer", "post", "encode")


class CalibrationError(ValueError):
    """Measurements that no model can be made of, or a file that is not a calibration."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A service under three loads.

    Attributes:
        alone: Requests of one client, one after another.
        alone_batches: Theirs.
        crowded_batches: Those of a crowd, of whom some always wait for the engine; while it runs, as many images are
            decoded as it holds.
        typical: Requests that arrive at random.
    """

    alone: Sequence[Exchange]
    alone_batches: Sequence[Batch]
    crowded_batches: Sequence[Batch]
    typical: Sequence[Exchange]


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of measurements.

    Attributes:
        command: The command line.
        commit: Of the code, with ``+`` where files differ from it.
        processor: Of the machine.
    """

    command: str
    commit: str
    processor: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """The content of ``calibration.json``."""

    origin: Origin
    models: Mapping[str, ServiceModel]


def fit_costs(measured: Measured, limits: Limits) -> Costs:
    """Costs from the measurements of a service with these limits.

    Raises:
        CalibrationError: A load without an answer, or without the measurement it was made for.
    """
    alone, typical = _answered(measured.alone), _answered(measured.typical)
    waited = [exchange for exchange in typical if exchange.stages_s["queue"] > limits.window_s + _BUSY_S]
    handoffs = _handoffs_s(measured.crowded_batches, limits)
    if not (alone and measured.alone_batches and waited and handoffs):
        raise CalibrationError(
            f"{len(alone)} requests alone, {len(waited)} of {len(typical)} that waited, {len(handoffs)} pauses between "
            "batches: nothing to go by"
        )
    fixed_s, crowded_s = fit_line(measured.crowded_batches)
    alone_s = float(np.mean([batch.seconds / batch.size for batch in measured.alone_batches]))
    contention_s = min(max(0.0, fixed_s + crowded_s - alone_s), crowded_s)
    ratios = [batch.seconds / (fixed_s + crowded_s * batch.size) for batch in measured.crowded_batches]
    return Costs(
        overhead_s=quantiles([_overhead_s(exchange) for exchange in alone]),
        before_s=quantiles([exchange.stages_s["decode"] for exchange in alone]),
        contended_before_s=quantiles([exchange.stages_s["decode"] for exchange in waited]),
        after_s=quantiles([exchange.stages_s["post"] + exchange.stages_s["encode"] for exchange in typical]),
        engine_fixed_s=fixed_s,
        engine_per_image_s=crowded_s - contention_s,
        engine_jitter=quantiles(ratios),
        contention_s=contention_s,
        handoff_s=quantiles(handoffs),
    )


def _handoffs_s(batches: Sequence[Batch], limits: Limits) -> list[float]:
    """Seconds per image of a batch until the next, of those pairs where the next cannot have been formed ahead."""
    return [
        after.gap_s / ended.size
        for ended, after in pairwise(batches)
        if not (limits.forms_ahead and after.size == limits.max_batch_size)
    ]


def fit_line(batches: Sequence[Batch]) -> tuple[float, float]:
    """(a, c) of t(b) = a + c b by least squares, neither below 0; with one size only, all is per image."""
    sizes = np.array([batch.size for batch in batches], float)
    seconds = np.array([batch.seconds for batch in batches])
    if len(set(sizes)) > 1:
        per_image_s, fixed_s = np.polyfit(sizes, seconds, 1)
        if fixed_s >= 0 and per_image_s >= 0:
            return float(fixed_s), float(per_image_s)
        if per_image_s < 0:
            return float(seconds.mean()), 0.0
    return 0.0, float((sizes * seconds).sum() / (sizes**2).sum())


def quantiles(values: Sequence[float]) -> Samples:
    """So many values, equally likely, that stand for ``values``, in rising order and to the microsecond."""
    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    found: NDArray[np.float64] = np.quantile(values, shares)
    return tuple(np.round(found, 6).tolist())


def _answered(exchanges: Sequence[Exchange]) -> list[Exchange]:
    return [exchange for exchange in exchanges if exchange.status == 200]


def _overhead_s(exchange: Exchange) -> float:
    """Seconds of a request that is alone, outside the codec threads and the engine."""
    work = sum(exchange.stages_s[stage] for stage in _WORK)
    return max(0.0, exchange.latency_s - work)


def write_calibration(calibration: Calibration, path: Path = FILE) -> None:
    """Write the file."""
    path.write_text(json.dumps(asdict(calibration)) + "\n", encoding="utf-8")


def read_calibration(path: Path = FILE) -> Calibration:
    """Read the file.

    Raises:
        CalibrationError: It is not there, or not what ``write_calibration`` writes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Calibration(
            origin=Origin(**content["origin"]),
            models={name: _model(model) for name, model in content["models"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(f"{path} is not a calibration: {error}") from error


def _model(content: Mapping[str, Mapping[str, object]]) -> ServiceModel:
    costs = {name: tuple(value) if isinstance(value, list) else value for name, value in content["costs"].items()}
    return ServiceModel(Costs(**costs), Limits(**content["limits"]))  # type: ignore[arg-type]
