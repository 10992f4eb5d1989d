"""Measurements to the costs of the simulation, their file, and the comparison with the real service."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale.arrivals import poisson
from benchmarks.scale.calibration import (
    Calibration,
    CalibrationError,
    Measured,
    Origin,
    fit_costs,
    fit_line,
    quantiles,
    read_calibration,
    write_calibration,
)
from benchmarks.scale.fleet import Fleet, simulate
from benchmarks.scale.load import Exchange, replay, saturate, stages_s
from benchmarks.scale.plot import draw_batching, draw_policies
from benchmarks.scale.run import run_case
from benchmarks.scale.server import FIXED_S, PER_IMAGE_S
from benchmarks.scale.service_model import Costs, Limits, ServiceModel
from benchmarks.scale.subject import Batch, running
from benchmarks.scale.sweeps import SWEEPS, Case, cases
from benchmarks.scale.validate import (
    Comparison,
    Side,
    engine_s_ratio,
    measured_side,
    read_validation,
    simulated,
    simulated_side,
    table,
    write_validation,
)

STAGES = {"read": 0.001, "wait": 0.001, "decode": 0.010, "queue": 0.002, "infer": 0.060, "post": 0.003, "encode": 0.004}
MODEL = ServiceModel(
    Costs((0.002, 0.004), (0.010,), (0.007,), 0.040, 0.020, (0.95, 1.05), (0.001,)), Limits(2, 8, 0.005)
)


def exchange(sent_s: float = 0.0, latency_s: float = 0.085, status: int = 200, **stages_s: float) -> Exchange:
    return Exchange(sent_s, latency_s, status, STAGES | stages_s if status == 200 else {})


def batches(*sizes: int, per_image_s: float = 0.020) -> list[Batch]:
    return [Batch(size, 0.040 + per_image_s * size, 0.003) for size in sizes]


def test_stages_are_read_from_server_timing() -> None:
    header = "read;dur=0.1, wait;dur=2.0, decode;dur=10.5, total;dur=99.0"
    assert stages_s(header) == pytest.approx({"read": 0.0001, "wait": 0.002, "decode": 0.0105})
    assert stages_s("") == {}


def test_costs_are_what_was_measured() -> None:
    typical = [exchange(), exchange(decode=0.015, queue=0.050), exchange(status=503)]
    crowd = batches(8, 4, 2, 8, per_image_s=0.023)
    costs = fit_costs(Measured([exchange()], batches(1, 1), crowd, typical), MODEL.limits)
    # All but decode, queue, infer, post and encode; and a gap of 3 ms after batches of 8, 4 and 2.
    assert np.mean(costs.overhead_s) == pytest.approx(0.085 - 0.079)
    assert np.mean(costs.before_s) == pytest.approx(0.010)
    assert np.mean(costs.contended_before_s) == pytest.approx(0.015)
    assert np.mean(costs.after_s) == pytest.approx(0.007)
    assert costs.engine_s(5) == pytest.approx(0.140)
    assert costs.contention_s == pytest.approx(0.003)
    assert np.mean(costs.engine_jitter) == pytest.approx(1)
    assert [min(costs.handoff_s), max(costs.handoff_s)] == pytest.approx([0.003 / 8, 0.003 / 2], abs=1e-5)


def test_pause_before_a_full_batch_is_no_handoff_where_it_was_formed_ahead() -> None:
    limits = replace(MODEL.limits, forms_ahead=True)
    costs = fit_costs(Measured([exchange()], batches(1), batches(2, 8, 4), [exchange(queue=0.050)]), limits)
    assert costs.handoff_s == pytest.approx((0.003 / 8,) * 200)
    assert costs.contention_s == pytest.approx(0)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 0.06, 2: 0.08, 8: 0.20}, (0.04, 0.02)),
        ({1: 0.2}, (0.0, 0.2)),
        ({1: 0.1, 2: 0.3}, (0.0, 0.14)),
        ({1: 0.3, 2: 0.1}, (0.2, 0.0)),
    ],
    ids=["line", "one size", "no negative start", "no negative slope"],
)
def test_line_is_fitted_to_batches(seconds: dict[int, float], expected: tuple[float, float]) -> None:
    assert fit_line([Batch(size, value, 0.0) for size, value in seconds.items()]) == pytest.approx(expected)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="1 requests alone, 0 of 1 that waited, 1 pauses between batches"):
        fit_costs(Measured([exchange()], batches(1), batches(1, 1), [exchange(), exchange(status=503)]), MODEL.limits)


def test_quantiles_keep_mean_and_tail() -> None:
    values = np.random.default_rng(0).exponential(0.1, 5_000)
    kept = quantiles(values.tolist())
    assert len(kept) == 200
    assert np.mean(kept) == pytest.approx(values.mean(), rel=0.01)
    assert kept[-3] == pytest.approx(np.quantile(values, 0.9875), rel=0.001)


def test_calibration_survives_its_file(tmp_path: Path) -> None:
    written = Calibration(Origin("python -m x", "abc", "2 x CPU"), {"bundled": MODEL})
    write_calibration(written, tmp_path / "calibration.json")
    assert read_calibration(tmp_path / "calibration.json") == written


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"origin": {"colour": 1}}'])
def test_other_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"calibration\.json is not a calibration"):
        read_calibration(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="No such file"):
        read_calibration(tmp_path / "calibration.json")


def side(mean: float, p99: float) -> Side:
    return Side({"mean": mean, "p50": 100.0, "p95": 100.0, "p99": p99}, 0.0, 0.5, 1.0)


@pytest.mark.parametrize(("p99", "is_near"), [(230.0, True), (231.0, False), (171.0, True), (169.0, False)])
def test_errors_beyond_15_percent_are_far(p99: float, is_near: bool) -> None:
    comparison = Comparison("fixed", 0.5, 100, 1.02, side(100.0, 200.0), side(110.0, p99))
    assert comparison.errors() == pytest.approx({"mean": 0.1, "p50": 0.0, "p95": 0.0, "p99": p99 / 200 - 1})
    assert comparison.is_near is is_near
    assert f"200 / {p99:.0f}" in table([comparison])
    assert "| +2.0% |" in table([comparison])


def test_a_service_that_was_not_measured_keeps_its_rows(tmp_path: Path) -> None:
    first, second = (Origin(f"python -m {name}", "abc", "2 x CPU") for name in ("x", "y"))
    rows = {
        name: [Comparison(name, 0.5, 100, 1.0, side(100.0, 200.0), side(110.0, 210.0))] for name in ("fixed", "bundled")
    }
    path = tmp_path / "validation.json"
    write_validation(path, first, rows)
    slower = [replace(rows["bundled"][0], drift=1.1)]
    write_validation(path, second, {"bundled": slower})
    assert read_validation(path) == {"fixed": (first, rows["fixed"]), "bundled": (second, slower)}


def test_measured_side_counts_answers_and_refusals() -> None:
    exchanges = [exchange(0.0, 0.1), exchange(0.1, 0.3), exchange(0.2, 0.001, status=503), exchange(0.8, 0.2)]
    measured = measured_side(exchanges, [Batch(1, 0.2, 0.0), Batch(2, 0.3, 0.0)])
    assert measured.latency_ms["mean"] == pytest.approx(200)
    assert measured.latency_ms["p50"] == pytest.approx(200)
    assert (measured.rejected_share, measured.utilisation, measured.mean_batch) == pytest.approx((0.25, 0.5, 1.5))


def test_simulated_side_is_that_of_the_moments_at_which_requests_were_sent() -> None:
    times = poisson(20, 100, seed=1)
    side = simulated_side(simulated(MODEL, [exchange(sent_s) for sent_s in times.tolist()]))
    one = simulate(Fleet(MODEL), times, seed=0)
    assert side.latency_ms["mean"] == pytest.approx(1000 * one.latencies_s.mean(), rel=0.1)
    assert 1 < side.mean_batch < 8


def test_drift_is_what_the_engine_took_longer_for_batches_whatever_their_sizes() -> None:
    exchanges = [exchange(sent_s) for sent_s in poisson(20, 100, seed=1).tolist()]
    usual = simulated(MODEL, exchanges)
    assert engine_s_ratio(MODEL, batches(1, 2, 8), usual) == pytest.approx(1, rel=0.01)
    slow = [replace(batch, seconds=1.03 * batch.seconds) for batch in batches(4, 4)]
    assert engine_s_ratio(MODEL, slow, usual) == pytest.approx(1.03, rel=0.01)
    # With the drift the simulated engine takes as long as that.
    drifted = simulated(MODEL, exchanges, 1.03)
    assert engine_s_ratio(MODEL, slow, drifted) == pytest.approx(1, rel=0.01)
    assert simulated_side(drifted).latency_ms["p50"] > 1.02 * simulated_side(usual).latency_ms["p50"]


def test_sweeps_cover_every_figure_and_its_lines(tmp_path: Path) -> None:
    every = list(cases({"bundled": MODEL, "fixed": MODEL}, requests=100))
    assert {case.sweep for case in every} == set(SWEEPS)
    thinned = [case for case in every if case.load in (0.3, 0.5)]
    rows = [run_case(case, requests=60, seed=1) for case in thinned]
    for draw, name in ((draw_policies, "policies.png"), (draw_batching, "batching.png")):
        draw(rows, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_row_of_a_sweep_tells_what_the_simulation_gave() -> None:
    fleet = Fleet(MODEL, 2)
    row = run_case(Case("equal", "random", 0.5, fleet.capacity_per_s, fleet), requests=200, seed=3)
    result = simulate(fleet, poisson(0.5 * fleet.capacity_per_s, 200, 3), 3)
    assert row["p99_ms"] == pytest.approx(1000 * np.quantile(result.latencies_s, 0.99), abs=0.05)
    assert (row["line"], row["load"], row["rejected_share"]) == ("random", 0.5, 0.0)


def test_calibration_that_is_kept_is_one() -> None:
    kept = read_calibration()
    assert set(kept.models) == {"fixed", "bundled"}
    fixed = kept.models["fixed"].costs
    # An engine that sleeps takes at least that long.
    assert fixed.engine_s(8) >= 0.98 * (FIXED_S + 8 * PER_IMAGE_S)
    assert json.dumps(kept.origin.command).startswith('"python -m benchmarks.scale.calibrate')


def test_real_service_tells_its_stages_and_its_batches() -> None:
    with running("fixed") as service:
        first = len(service.batches())
        alone = replay(service.url, service.image, np.array([0.0]))
        crowd = saturate(service.url, service.image, clients=12, seconds=0.5)
        seen = service.batches()[first:]
        assert service.cpu_s() > 0
    assert {answer.status for answer in (*alone, *crowd)} == {200}
    assert alone[0].stages_s["infer"] >= FIXED_S + PER_IMAGE_S
    assert alone[0].latency_s > sum(alone[0].stages_s.values())
    assert sum(batch.size for batch in seen) == len(alone) + len(crowd)
    assert 1 < max(batch.size for batch in seen) <= service.limits.max_batch_size
    assert all(batch.seconds >= FIXED_S + PER_IMAGE_S * batch.size for batch in seen)
    costs = fit_costs(Measured(alone, seen[:1], seen[1:], crowd), service.limits)
    assert replace(MODEL, costs=costs).capacity_per_s > 0
