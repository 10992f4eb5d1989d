from __future__ import annotations

import pytest

from service.inference.batch_policy import BatchPolicy, best_batch_size, best_window_s, choose_batch_policy


@pytest.mark.parametrize(
    ("seconds", "engine_limit", "expected"),
    [
        ({1: 0.56, 2: 1.18}, 2, 1),  # a CPU
        ({1: 0.010, 2: 0.011, 4: 0.014, 8: 0.026}, 8, 8),
        ({1: 0.010, 2: 0.012, 4: 0.020, 8: 0.0396}, 8, 4),  # 1% less per image at 8
        ({1: 0.010, 2: 0.011, 4: 0.012}, 2, 2),
        ({1: 0.010}, 8, 8),
        ({}, 8, 8),
    ],
)
def test_smallest_batch_is_taken_that_makes_images_nearly_as_fast_as_the_best(
    seconds: dict[int, float], engine_limit: int, expected: int
) -> None:
    assert best_batch_size(seconds, engine_limit) == expected


@pytest.mark.parametrize(
    ("seconds", "max_batch_size", "expected"),
    [
        ({1: 0.010, 2: 0.012}, 8, 0.004),
        ({1: 0.10, 2: 0.12}, 8, 0.010),
        ({1: 0.010, 2: 0.022}, 2, 0.0),
        ({1: 0.010, 2: 0.012}, 1, 0.0),
        ({}, 8, 0.002),
    ],
)
def test_window_is_half_of_what_a_second_image_saves(
    seconds: dict[int, float], max_batch_size: int, expected: float
) -> None:
    assert best_window_s(seconds, max_batch_size) == pytest.approx(expected)


def test_engine_gets_ten_times_its_slowest_batch_and_at_least_ten_seconds() -> None:
    assert choose_batch_policy({1: 1.4, 2: 2.9}, engine_limit=2).engine_timeout_s == pytest.approx(29.0)
    assert choose_batch_policy({1: 0.01}, engine_limit=1).engine_timeout_s == 10.0
    assert choose_batch_policy({}, engine_limit=1).engine_timeout_s == 30.0


def test_time_per_image_is_that_of_the_batches_to_come() -> None:
    assert choose_batch_policy({1: 0.010, 2: 0.012, 4: 0.016}, engine_limit=4).seconds_per_image == pytest.approx(0.004)
    assert choose_batch_policy(
        {1: 0.010, 2: 0.012, 4: 0.016}, engine_limit=4, max_batch_size=3
    ).seconds_per_image == pytest.approx(0.006)
    assert choose_batch_policy({}, engine_limit=4).seconds_per_image == 0.0


def test_what_is_given_is_kept_but_never_more_than_the_engine_takes() -> None:
    given = choose_batch_policy({1: 0.5, 4: 1.0}, engine_limit=4, max_batch_size=8, window_s=0.0, engine_timeout_s=2.5)
    assert given == BatchPolicy(max_batch_size=4, window_s=0.0, engine_timeout_s=2.5, seconds_per_image=0.25)
