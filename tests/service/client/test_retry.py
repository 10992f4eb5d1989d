"""Waits: what ``Retry-After`` says, and how far tries lie apart where it says nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from service.client.retry import RetryPolicy, retry_after_s

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("7", 7),
        (" 120 ", 120),
        (format_datetime(NOW + timedelta(seconds=20), usegmt=True), 20),
        ("Sun, 01 Mar 2026 12:00:05 -0000", 5),
        (format_datetime(NOW - timedelta(hours=1), usegmt=True), 0),
        ("soon", None),
        ("-3", None),
        ("Wed, 99 Oct 2026 99:99:99 +999999999999999", None),
        ("1.5", None),
        ("", None),
        ("\N{SUPERSCRIPT TWO}", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, lambda: NOW) == seconds


def test_waits_double_up_to_the_longest() -> None:
    policy = RetryPolicy(first_wait_s=0.5, max_wait_s=3)
    assert [policy.wait_s(tries, lambda: 1.0) for tries in (1, 2, 3, 4, 50)] == [0.5, 1, 2, 3, 3]


def test_waits_are_spread_over_their_upper_half() -> None:
    policy = RetryPolicy(first_wait_s=4)
    assert [policy.wait_s(1, iter([part]).__next__) for part in (0.0, 0.5, 1.0)] == [2, 3, 4]


@pytest.mark.parametrize("wrong", [{"max_tries": 0}, {"first_wait_s": -1}, {"max_wait_s": -0.1}])
def test_a_policy_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least one try and waits of 0 s or more"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]
