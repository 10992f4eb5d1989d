"""The simulation of a fleet against closed formulas, and rules that every run must keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from random import Random

import numpy as np
import pytest
from simpy import Environment

from benchmarks.scale.arrivals import bursty, poisson
from benchmarks.scale.batcher import Batcher
from benchmarks.scale.fleet import Fleet, Outage, Result, simulate
from benchmarks.scale.policies import POLICIES, PolicyName, make_policy
from benchmarks.scale.replica import End, Replica
from benchmarks.scale.service_model import Costs, Limits, Samples, ServiceModel

NOTHING = (0.0,)
COSTS = Costs(
    overhead_s=(0.001, 0.003),
    before_s=(0.008, 0.012),
    after_s=(0.005,),
    engine_fixed_s=0.020,
    engine_per_image_s=0.010,
    engine_jitter=(0.9, 1.0, 1.1),
    handoff_s=(0.001,),
)
LIMITS = Limits(codec_threads=2, max_batch_size=8, window_s=0.005)
MODEL = ServiceModel(COSTS, LIMITS)


def queue(engine_jitter: Samples) -> ServiceModel:
    """An engine alone, one image at a time, a second in the mean, with endless room and time."""
    costs = Costs(NOTHING, NOTHING, NOTHING, 1.0, 0.0, engine_jitter)
    return ServiceModel(costs, Limits(1, 1, 0.0, max_requests_in_flight=10**9, request_timeout_s=1e9))


def exponential(count: int = 4000) -> Samples:
    """Equally likely values that stand for the exponential distribution with mean 1."""
    return tuple((-np.log(1 - (np.arange(count) + 0.5) / count)).tolist())


def engine_only(fixed_s: float, per_image_s: float, limits: Limits) -> ServiceModel:
    return ServiceModel(Costs(NOTHING, NOTHING, NOTHING, fixed_s, per_image_s), limits)


def test_m_m_1_is_as_the_formulas_have_it() -> None:
    result = simulate(Fleet(queue(exponential())), poisson(0.6, 15_000, seed=4), seed=4)
    assert result.latencies_s.mean() == pytest.approx(1 / (1 - 0.6), rel=0.06)
    assert result.utilisations[0] == pytest.approx(0.6, rel=0.02)
    expected = [-math.log(1 - share) / (1 - 0.6) for share in (0.5, 0.95, 0.99)]
    assert np.quantile(result.latencies_s, (0.5, 0.95, 0.99)) == pytest.approx(expected, rel=0.08)


def test_one_engine_in_the_order_of_arrival_obeys_lindleys_recursion() -> None:
    arrivals = poisson(0.8, 2_000, seed=3)
    ends = list(accumulate(arrivals, lambda end, arrival: max(end, arrival) + 1, initial=0.0))[1:]
    assert simulate(Fleet(queue((1.0,))), arrivals, seed=3).latencies_s == pytest.approx(ends - arrivals)


def test_m_d_1_waits_half_as_long() -> None:
    result = simulate(Fleet(queue((1.0,))), poisson(0.6, 8_000, seed=3), seed=3)
    assert result.latencies_s.mean() - 1 == pytest.approx(0.6 / (2 * (1 - 0.6)), rel=0.08)


def test_two_replicas_lie_between_one_line_and_two() -> None:
    """One line before two servers is M/M/2, 1 / (1 - 0.6 ** 2); lines that are chosen at random are M/M/1."""
    arrivals = poisson(1.2, 5_000, seed=1)
    policies: tuple[PolicyName, ...] = ("least-outstanding", "random")
    fewest, random = (
        simulate(Fleet(queue(exponential()), 2, policy), arrivals, seed=1).latencies_s.mean() for policy in policies
    )
    assert 1 / (1 - 0.6**2) < fewest < 0.8 * random


def test_engine_does_all_work_and_no_more() -> None:
    arrivals = poisson(20, 2_000, seed=5)
    result = simulate(Fleet(engine_only(0.0, 0.025, LIMITS)), arrivals, seed=5)
    end_s = arrivals[-1] + result.latencies_s[-1]
    assert sum(size * count for size, count in result.batch_sizes.items()) == 2_000
    assert result.utilisations[0] * end_s == pytest.approx(2_000 * 0.025)


def test_requests_are_answered_in_the_order_of_their_arrival() -> None:
    arrivals = poisson(30, 1_000, seed=6)
    result = simulate(Fleet(engine_only(0.05, 0.01, LIMITS)), arrivals, seed=6)
    assert (np.diff(arrivals + result.latencies_s) >= -1e-9).all()


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_batches_never_exceed_the_limit(limit: int) -> None:
    model = ServiceModel(COSTS, replace(LIMITS, max_batch_size=limit))
    result = simulate(Fleet(model), poisson(1.2 * model.capacity_per_s, 1_000, seed=7), seed=7)
    assert max(result.batch_sizes) == limit
    assert min(result.batch_sizes) >= 1


def test_requests_that_arrive_while_the_engine_runs_make_the_next_batch() -> None:
    result = simulate(Fleet(engine_only(1.0, 0.0, LIMITS)), np.array([0.0, 0.1, 0.2, 0.3]), seed=0)
    assert result.batch_sizes == {1: 1, 3: 1}
    assert result.latencies_s == pytest.approx([1.0, 1.9, 1.8, 1.7])


def test_idle_engine_does_not_wait_for_nobody() -> None:
    model = engine_only(1.0, 0.0, replace(LIMITS, window_s=0.5))
    assert simulate(Fleet(model), np.array([0.0, 2.0]), seed=0).latencies_s == pytest.approx([1.0, 1.0])


def test_idle_engine_waits_in_the_window_for_a_request_that_is_decoded() -> None:
    costs = Costs(NOTHING, (0.2,), NOTHING, 1.0, 0.0)
    model = ServiceModel(costs, replace(LIMITS, window_s=0.5))
    result = simulate(Fleet(model), np.array([0.0, 0.1]), seed=0)
    assert result.batch_sizes == {2: 1}
    assert result.latencies_s == pytest.approx([1.3, 1.2])


@pytest.mark.parametrize(("forms_ahead", "ends"), [(True, [1.0, 2.0, 2.0]), (False, [1.0, 2.5, 2.5])])
def test_full_batch_that_waits_begins_without_a_pause_where_it_is_formed_ahead(
    forms_ahead: bool, ends: list[float]
) -> None:
    costs = Costs(NOTHING, NOTHING, NOTHING, 1.0, 0.0, handoff_s=(0.5,))
    model = ServiceModel(costs, Limits(2, 2, 0.0, forms_ahead=forms_ahead))
    times = np.array([0.0, 0.1, 0.2])
    assert times + simulate(Fleet(model), times, seed=0).latencies_s == pytest.approx(ends)


def test_batch_that_is_not_full_is_never_formed_ahead() -> None:
    costs = Costs(NOTHING, NOTHING, NOTHING, 1.0, 0.0, handoff_s=(0.5,))
    model = ServiceModel(costs, Limits(2, 2, 0.0, forms_ahead=True))
    assert simulate(Fleet(model), np.array([0.0, 0.1]), seed=0).latencies_s == pytest.approx([1.0, 2.4])


def test_decode_beside_a_busy_engine_takes_longer_and_delays_the_batch() -> None:
    costs = Costs(NOTHING, (0.2,), NOTHING, 1.0, 0.0, contended_before_s=(0.6,), contention_s=0.1)
    model = ServiceModel(costs, Limits(2, 1, 0.0))
    # The first runs from 0.2, and to 1.3 as another is decoded meanwhile; that one, from 0.5 to 1.1, runs to 2.3.
    result = simulate(Fleet(model), np.array([0.0, 0.5, 3.0]), seed=0)
    assert result.latencies_s == pytest.approx([1.3, 1.8, 1.2])
    assert result.utilisations[0] * 4.2 == pytest.approx(3.1)


def test_window_counts_from_the_oldest_image() -> None:
    costs = Costs(NOTHING, (0.2,), NOTHING, 1.0, 0.0)
    model = ServiceModel(costs, replace(LIMITS, window_s=0.05))
    assert simulate(Fleet(model), np.array([0.0, 0.1]), seed=0).latencies_s == pytest.approx([1.25, 2.15])


def test_codec_threads_are_shared_by_both_ends() -> None:
    costs = Costs(NOTHING, (1.0,), (1.0,), 0.0, 0.0)
    model = ServiceModel(costs, Limits(codec_threads=1, max_batch_size=1, window_s=0.0))
    assert simulate(Fleet(model), np.array([0.0, 0.0]), seed=0).latencies_s == pytest.approx([3.0, 4.0])


def test_full_replica_refuses_at_once() -> None:
    model = engine_only(1.0, 0.0, Limits(1, 1, 0.0, max_requests_in_flight=2))
    result = simulate(Fleet(model), np.array([0.0, 0.1, 0.2, 1.5]), seed=0)
    assert result.rejected == 1
    assert result.latencies_s == pytest.approx([1.0, 1.9, 1.5])


def test_expired_request_leaves_the_line() -> None:
    model = engine_only(1.0, 0.0, Limits(1, 1, 0.0, request_timeout_s=1.5))
    result = simulate(Fleet(model), np.array([0.0, 0.1, 0.2, 1.6]), seed=0)
    # The second expires in the engine; the third would begin at 2.0, is gone at 1.7, and the fourth begins instead.
    assert result.expired == 2
    assert result.latencies_s == pytest.approx([1.0, 1.4])
    assert result.batch_sizes == {1: 3}


@pytest.mark.parametrize("policy", POLICIES)
def test_no_request_is_lost(policy: PolicyName) -> None:
    fleet = Fleet(
        ServiceModel(COSTS, replace(LIMITS, max_requests_in_flight=12, request_timeout_s=0.25)),
        replicas=3,
        policy=policy,
        balancers=2,
        tries=2,
        slowdowns={1: 3.0},
        outages=[Outage(0, 1.0, 2.0), Outage(1, 2.5, 3.0)],
    )
    result = simulate(fleet, bursty(1.1 * fleet.capacity_per_s, 1_500, seed=8), seed=8)
    assert len(result.latencies_s) + result.rejected + result.expired == 1_500 == result.arrived
    assert min(len(result.latencies_s), result.rejected, result.expired) > 0
    assert result.latencies_s.max() <= 0.25


def test_killed_replica_costs_no_request_where_another_takes_it() -> None:
    fleet = Fleet(MODEL, replicas=3, outages=[Outage(0, 1.0, 3.0)])
    result = simulate(fleet, poisson(0.4 * fleet.capacity_per_s, 1_000, seed=9), seed=9)
    assert len(result.latencies_s) == 1_000


def test_killed_replica_loses_what_is_inside() -> None:
    env = Environment()
    replica = Replica(env, MODEL, Random(0))
    visit = replica.enter(deadline=10.0)
    assert visit is not None
    replica.kill()
    assert visit.ended.value is End.LOST
    assert replica.enter(deadline=10.0) is None


def latencies(fleet: Fleet, seed: int = 4) -> Result:
    return simulate(fleet, poisson(0.6 * fleet.capacity_per_s, 1_000, seed), seed)


def test_equal_seeds_give_equal_results() -> None:
    fleet = Fleet(MODEL, replicas=2, policy="power-of-two")
    assert np.array_equal(latencies(fleet).latencies_s, latencies(fleet).latencies_s)
    assert not np.array_equal(latencies(fleet).latencies_s, latencies(fleet, seed=5).latencies_s)


def test_all_policies_are_equal_with_one_replica() -> None:
    results = [latencies(Fleet(MODEL, policy=policy)).latencies_s for policy in POLICIES]
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_least_outstanding_beats_round_robin_with_a_slow_replica() -> None:
    p99 = {
        policy: np.quantile(latencies(Fleet(MODEL, 4, policy, slowdowns={0: 3.0})).latencies_s, 0.99)
        for policy in POLICIES
    }
    assert p99["least-outstanding"] < 0.5 * p99["round-robin"]
    assert p99["power-of-two"] < 0.5 * p99["random"]


@pytest.mark.parametrize(
    ("policy", "outstanding", "expected"),
    [
        ("round-robin", [9, 0, 0], [0, 1, 2]),
        ("least-outstanding", [1, 1, 1], [0, 1, 2]),
        ("least-outstanding", [2, 1, 3], [1]),
        ("least-outstanding", [1, 2, 1], [0, 2]),
    ],
)
def test_rotation(policy: PolicyName, outstanding: Sequence[int], expected: list[int]) -> None:
    choose = make_policy(policy, Random(0))
    chosen = [choose([0, 1, 2], outstanding) for _ in range(6)]
    first = expected.index(chosen[0])
    assert chosen == [expected[(first + turn) % len(expected)] for turn in range(6)]


def test_power_of_two_takes_the_better_of_those_drawn() -> None:
    choose = make_policy("power-of-two", Random(0))
    chosen = [choose([0, 1, 2], [5, 1, 3]) for _ in range(300)]
    # 0 loses to both others, 1 wins every draw that it is in: two of three.
    assert 0 not in chosen
    assert chosen.count(1) == pytest.approx(200, abs=25)


def test_poisson_arrivals_have_their_rate_and_independent_gaps() -> None:
    gaps = np.diff(poisson(50, 20_000, seed=1))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(1, rel=0.03)


def test_bursty_arrivals_have_the_same_rate_and_vary_more() -> None:
    times = bursty(50, 40_000, seed=1)
    assert len(times) / times[-1] == pytest.approx(50, rel=0.1)
    counts = np.bincount(times.astype(int))
    assert counts.var() / counts.mean() > 5  # 1 of a Poisson process
    assert (np.diff(times) >= 0).all()


def test_bursts_of_more_than_all_requests_are_refused() -> None:
    with pytest.raises(ValueError, match=r"factor 6 in 0\.2"):
        bursty(50, 10, seed=1, factor=6)


def test_capacity_is_that_of_the_narrowest_part() -> None:
    engine_s = 0.020 + 8 * 0.010 + 8 * 0.001
    assert MODEL.capacity_per_s == pytest.approx(8 / engine_s)
    ahead = replace(LIMITS, forms_ahead=True)
    assert ServiceModel(COSTS, ahead).capacity_per_s == pytest.approx(8 / (0.020 + 8 * 0.010))
    contended = replace(COSTS, contention_s=0.002)
    assert ServiceModel(contended, ahead).capacity_per_s == pytest.approx(8 / (0.020 + 8 * 0.012))
    slow_codec = replace(COSTS, contended_before_s=(0.2,))
    assert ServiceModel(slow_codec, LIMITS).capacity_per_s == pytest.approx(2 / 0.205)
    slow_loop = replace(COSTS, overhead_s=(0.5,))
    assert ServiceModel(slow_loop, LIMITS).capacity_per_s == pytest.approx(2)


def test_overload_is_answered_at_capacity() -> None:
    fleet = Fleet(MODEL)
    result = simulate(fleet, poisson(2 * fleet.capacity_per_s, 4_000, seed=2), seed=2)
    duration_s = 4_000 / (2 * fleet.capacity_per_s)
    assert len(result.latencies_s) / duration_s == pytest.approx(fleet.capacity_per_s, rel=0.06)
    assert result.rejected_share == pytest.approx(0.5, abs=0.03)


def test_withdrawn_work_is_never_run() -> None:
    env = Environment()
    batcher = Batcher(env, LIMITS, lambda _: 1.0, lambda _: 0.0, lambda: True)
    kept, dropped = batcher.submit(), batcher.submit()
    batcher.withdraw(dropped)
    env.run(until=2)
    assert kept.row.processed
    assert not dropped.row.triggered
    assert batcher.log.sizes == [1]
