"""The policy of retries: which requests to send again, and after how long; the callers do the waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Too many requests (also a rate limit), a proxy without a service, busy or stopping, too late. A 500 would fail again.
RETRIED_STATUSES = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The time to wait for a service that is busy or unreachable.

    Attributes:
        max_tries: Times that a request is sent.
        first_wait_s: Seconds before the second try where the service does not say; twice as many before each further.
        max_wait_s: Longest wait before a try, in seconds; if the service asks for more, there is no further try.
    """

    max_tries: int = 6
    first_wait_s: float = 0.5
    max_wait_s: float = 30.0

    def __post_init__(self) -> None:
        if self.max_tries < 1 or self.first_wait_s < 0 or self.max_wait_s < 0:
            raise ValueError(f"{self} is invalid: expected at least one try and waits of 0 s or more")

    def wait_s(self, tries: int, random: Callable[[], float]) -> float:
        """Seconds to wait after ``tries`` tries: from half of the doubled wait to all of it, by ``random`` 0..1.

        The randomness keeps clients that were refused together from coming back together.
        """
        longest = min(self.max_wait_s, self.first_wait_s * 2.0 ** (tries - 1))
        return longest * (1 + random()) / 2


def retry_after_s(header: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Seconds that a ``Retry-After`` asks for, a number or a date (RFC 9110, 10.2.3); None without a sensible one."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # A date without a zone is in UTC, as HTTP knows no other.
    aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max(0.0, (aware - now()).total_seconds())
