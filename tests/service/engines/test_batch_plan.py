"""Batches of any size become runs of prepared sizes, in order and without a gap."""

from __future__ import annotations

import pytest

from service.engines.base import EngineError
from service.engines.batch_plan import Run, plan_runs, prepared_sizes


@pytest.mark.parametrize(
    ("least", "most", "limit", "expected"),
    [
        (1, 8, None, (1, 2, 4, 8)),
        (1, 1, None, (1,)),
        (1, 6, None, (1, 2, 4, 6)),
        (3, 16, None, (3, 4, 8, 16)),
        (3, 3, None, (3,)),
        (1, 8, 8, (1, 2, 4, 8)),
        (1, 8, 100, (1, 2, 4, 8)),
        (1, 8, 4, (1, 2, 4)),
        (1, 8, 3, (1, 2, 3)),
        (1, 8, 1, (1,)),
        (4, 8, 2, (4,)),
    ],
)
def test_sizes_are_powers_of_two_and_the_ends_of_what_is_asked_for(
    least: int, most: int, limit: int | None, expected: tuple[int, ...]
) -> None:
    assert prepared_sizes(least, most, limit) == expected


@pytest.mark.parametrize(("least", "most"), [(0, 8), (-1, -1), (4, 2)])
def test_a_profile_without_sizes_is_refused(least: int, most: int) -> None:
    with pytest.raises(EngineError, match=f"batches of {least} to {most}, expected 1 <= least <= most"):
        prepared_sizes(least, most)


@pytest.mark.parametrize(("count", "padded"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (6, 8), (7, 8), (8, 8)])
def test_a_batch_is_padded_to_the_next_size(count: int, padded: int) -> None:
    assert plan_runs(count, (1, 2, 4, 8)) == [Run(0, count, padded)]


def test_more_than_the_largest_size_takes_several_runs() -> None:
    assert plan_runs(19, (1, 2, 4, 8)) == [Run(0, 8, 8), Run(8, 16, 8), Run(16, 19, 4)]
    assert plan_runs(16, (1, 2, 4, 8)) == [Run(0, 8, 8), Run(8, 16, 8)]
    assert plan_runs(2, (1,)) == [Run(0, 1, 1), Run(1, 2, 1)]


@pytest.mark.parametrize("sizes", [(1, 2, 4, 8), (1,), (3, 4, 8), (1, 2, 3)])
def test_every_image_is_in_exactly_one_run_that_holds_it(sizes: tuple[int, ...]) -> None:
    for count in range(1, 30):
        runs = plan_runs(count, sizes)
        assert [index for run in runs for index in range(run.start, run.stop)] == list(range(count))
        assert all(run.stop - run.start <= run.size and run.size in sizes for run in runs)
