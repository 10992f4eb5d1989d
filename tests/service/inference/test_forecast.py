from __future__ import annotations

import pytest

from service.inference.forecast import Forecast, line_s
from tests.service.inference.test_admission import Line


@pytest.mark.parametrize(
    ("images", "seconds"), [(0, 1.0), (1, 3.0), (2, 4.0), (3, 5.0), (4, 6.0), (6, 9.0), (8, 11.0), (9, 13.0)]
)
def test_a_line_is_done_in_full_batches_and_a_rest(images: int, seconds: float) -> None:
    assert line_s(images, free_s=1.0, max_batch_size=4, first_s=2.0, full_s=5.0) == seconds


def test_a_line_before_an_engine_that_takes_one_at_a_time() -> None:
    assert line_s(3, free_s=0.5, max_batch_size=1, first_s=2.0, full_s=2.0) == 6.5


def test_models_share_the_machine() -> None:
    street, night = BusyLine(1.0, 6.0), BusyLine(3.0, 9.0)
    forecast = Forecast(lambda: [street, night])
    assert forecast.ahead_s(2) == 6.0 + 9.0 + 2 * 2.0
    assert forecast.done_s(street, 2) == 6.0 + 3 * 1.0 + 9.0


def test_nothing_is_ahead_without_models() -> None:
    assert Forecast(list).ahead_s(5) == 0.0


class BusyLine(Line):
    """A queue that has work already."""

    def __init__(self, seconds_per_image: float, busy_s: float) -> None:
        super().__init__(seconds_per_image)
        self._busy_s = busy_s

    def line_s(self, more: int) -> float:
        return self._busy_s + super().line_s(more)
