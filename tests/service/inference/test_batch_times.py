from __future__ import annotations

import pytest

from service.inference.batch_times import BatchTimes


def test_nothing_is_expected_before_anything_is_known() -> None:
    times = BatchTimes()
    assert (times.expected(1), times.safe(8)) == (0.0, 0.0)


@pytest.mark.parametrize(("size", "seconds"), [(0, 0.0), (1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0), (8, 10.0)])
def test_sizes_between_are_interpolated_and_those_beyond_in_proportion(size: int, seconds: float) -> None:
    times = BatchTimes({4: 5.0, 1: 2.0})
    assert times.expected(size) == times.safe(size) == seconds


def test_a_smaller_batch_than_any_takes_no_longer_than_the_smallest() -> None:
    times = BatchTimes()
    times.note(4, 6.0)
    assert times.expected(1) == 6.0


def test_all_sizes_follow_the_latest_batches() -> None:
    times = BatchTimes({1: 1.0, 2: 1.5})
    for _ in range(100):
        times.note(1, 1.6)
    assert times.expected(2) == pytest.approx(2.4)
    assert times.safe(2) == pytest.approx(2.4)


def test_a_safe_time_covers_what_varies() -> None:
    times = BatchTimes({1: 1.0})
    for number in range(100):
        times.note(1, 0.9 if number % 2 else 1.1)
    assert times.expected(1) == pytest.approx(1.0, abs=0.03)
    assert 1.1 < times.safe(1) < 1.3


def test_one_pause_of_the_machine_is_no_slow_engine() -> None:
    times = BatchTimes({1: 1.0})
    times.note(1, 60.0)
    assert times.expected(1) == pytest.approx(1.2)
    assert times.safe(1) == pytest.approx(1.6)


def test_relaxing_expects_less_until_a_batch_is_measured_again() -> None:
    times = BatchTimes({1: 1.0})
    for _ in range(40):
        times.note(1, 4.0)
    before = times.safe(1)
    for _ in range(60):
        times.relax()
    assert times.safe(1) == pytest.approx(before * 0.98**60)
    assert times.safe(1) < 1.3
