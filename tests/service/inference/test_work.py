from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.inference.work import Work, in_time


def works(*deadlines: float) -> list[Work]:
    loop = asyncio.new_event_loop()
    try:
        image = np.zeros((1, 1, 3), np.uint8)
        output = np.zeros((1, 1, 1), np.float32)
        return [
            Work(image, output, deadline, 0.0, 0.0, lambda: None, loop.create_future(), None) for deadline in deadlines
        ]
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("deadlines", "kept"),
    [
        ((30.0, 20.0, 40.0), (30.0, 20.0, 40.0)),
        ((13.0, 12.0, 13.0), (13.0, 13.0)),  # three take until 13, two until 12
        ((13.0, 11.0, 13.0), (13.0, 13.0)),
        ((10.5, 12.5, 11.5), (12.5,)),
        ((10.5, 10.9), ()),
        ((), ()),
    ],
)
def test_as_many_as_possible_are_done_in_time(deadlines: tuple[float, ...], kept: tuple[float, ...]) -> None:
    batch = in_time(works(*deadlines), 10.0, float)
    assert tuple(work.deadline for work in batch) == kept
