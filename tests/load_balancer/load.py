"""Clients that ask all the time, and remember every answer; they try nothing twice."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.load_balancer.balancer import Balancer
from tests.load_balancer.patience import until
from tests.load_balancer.samples import Sample

CLIENTS = 12
REQUESTS = 2000
# Requests before, during and after a disturbance.
SOME = 200
# Each fifth request of a client comes on a new connection; the others use the one that is there.
_NEW_CONNECTION_EVERY = 5
# Of whoever waits for answers; a busy machine takes a minute for all.
_PATIENCE_S = 240


class Connection(http.client.HTTPConnection):
    """HTTP to a balancer, wherever it listens."""

    def __init__(self, balancer: Balancer) -> None:
        super().__init__("balancer")
        self._balancer = balancer

    def connect(self) -> None:
        self.sock = self._balancer.connect()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a request.

    Attributes:
        started: When it was sent, on the monotonic clock.
        ended: When its answer was there.
        fault: What was wrong with the answer; empty if nothing was.
    """

    started: float
    ended: float
    fault: str


class Load:
    """Steady load on a balancer while the context is open, and until enough requests were sent."""

    def __init__(self, balancer: Balancer, samples: Sequence[Sample], *, clients: int = CLIENTS) -> None:
        """Prepare.

        Args:
            balancer: Whom to ask.
            samples: What to send, in turn.
            clients: How many send at the same time.
        """
        self.outcomes: list[Outcome] = []
        self._balancer = balancer
        self._samples = samples
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run_client, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                until(lambda: len(self.outcomes) >= REQUESTS, f"{REQUESTS} requests are answered", _PATIENCE_S)
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def go_on(self, requests: int) -> None:
        """Wait until so many more were answered."""
        wanted = len(self.outcomes) + requests
        until(lambda: len(self.outcomes) >= wanted, f"{requests} more requests are answered", _PATIENCE_S)

    def check(self) -> None:
        """Every request was answered, rightly, and logged once, as far as it was logged."""
        faults = [outcome.fault for outcome in self.outcomes if outcome.fault]
        assert not faults, f"{len(faults)} of {len(self.outcomes)} requests failed: {faults[:5]}"
        assert len(self.outcomes) >= REQUESTS
        assert {entry.status for entry in self._balancer.entries_of(len(self.outcomes))} == {200}

    def during(self, begin: float, end: float) -> int:
        """Requests that began between two moments of the monotonic clock."""
        return sum(begin <= outcome.started < end for outcome in self.outcomes)

    def _run_client(self) -> None:
        connection = Connection(self._balancer)
        for own in itertools.count():
            if self._stop.is_set():
                break
            if own % _NEW_CONNECTION_EVERY == 0:
                connection.close()
            started = time.monotonic()
            fault = self._ask(connection, next(self._numbers))
            self.outcomes.append(Outcome(started, time.monotonic(), fault))
        connection.close()

    def _ask(self, connection: Connection, number: int) -> str:
        """Send one request; gives what was wrong with its answer."""
        sample = self._samples[number % len(self._samples)]
        request_id = f"load-{number}"
        headers = {"Content-Type": sample.media_type, "X-Request-ID": request_id}
        try:
            connection.request("POST", "/segment", sample.body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return f"{request_id}: {error!r}"
        if response.status != 200:
            return f"{request_id}: {response.status} {answer[:200]!r}"
        if response.getheader("X-Request-ID") != request_id:
            return f"{request_id}: answer of {response.getheader('X-Request-ID')}"
        return "" if sample.is_answered_by(answer) else f"{request_id}: wrong pixels"
