"""Goodput under overload, in simulated time: admission and batcher keep the engine at work that will be in time."""

from __future__ import annotations

import pytest

from benchmarks.reliability.goodput import ENGINES, Load, simulate

SINGLE, BATCHES = ENGINES


@pytest.mark.parametrize("times", [1.5, 3.0, 10.0])
@pytest.mark.parametrize("deadline_s", [1.2, 1.8, 3.0, 10.0])
def test_an_overloaded_engine_answers_what_it_can(deadline_s: float, times: float) -> None:
    outcome = simulate(SINGLE, Load(times, deadline_s, is_even=True), seconds=40, seed=1)
    assert outcome.share >= 0.95
    assert outcome.wasted <= 0.01
    assert sum(outcome.ends.values()) == round(40 * times / 0.6)
    assert outcome.ends["expired"] <= 10
    assert 1.0 <= max(outcome.retry_after_s) <= 2.0  # the time until there is room, not until all is done


@pytest.mark.parametrize("times", [1.5, 3.0])
@pytest.mark.parametrize("deadline_s", [3.0, 10.0])
def test_batches_stay_full_under_overload(deadline_s: float, times: float) -> None:
    outcome = simulate(BATCHES, Load(times, deadline_s, is_even=True), seconds=40, seed=1)
    assert outcome.share >= 0.95
    assert outcome.wasted <= 0.02


@pytest.mark.parametrize("deadline_s", [1.2, 3.0])
def test_requests_at_random_times_are_served_nearly_as_well_as_can_be(deadline_s: float) -> None:
    outcome = simulate(SINGLE, Load(1.5, deadline_s, is_even=False), seconds=120, seed=1)
    assert outcome.best is not None
    assert outcome.share >= 0.92 * outcome.best


def test_a_load_that_the_engine_can_bear_is_answered_in_full() -> None:
    outcome = simulate(SINGLE, Load(0.9, 10.0, is_even=True), seconds=40, seed=1)
    assert outcome.ends == {"answered": 60}


def test_a_seed_gives_the_same_figures_again() -> None:
    load = Load(3.0, 3.0, is_even=False)
    first, again, other = (simulate(SINGLE, load, seconds=20, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
