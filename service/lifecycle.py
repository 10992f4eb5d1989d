"""The states of the process: starting, ready, draining, stopped; or failed, when the model cannot be used."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The phase of the process; ``/readyz`` answers 200 in ``READY``, see ``Lifecycle.is_replaced`` too."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


_NEXT = {
    State.STARTING: {State.READY, State.DRAINING, State.FAILED},
    State.READY: {State.DRAINING},
    State.DRAINING: {State.STOPPED},
    State.FAILED: {State.DRAINING},
    State.STOPPED: set[State](),
}


class Lifecycle:
    """The current state, which only moves forward.

    Attributes:
        state: The current state.
        failure: Why the start failed, one sentence; empty otherwise. It stays after ``FAILED`` was left.
        is_replaced: True for a worker that drains because another takes its place: the service stays ready.
    """

    def __init__(self) -> None:
        self.state = State.STARTING
        self.failure = ""
        self.is_replaced = False

    @property
    def is_ready(self) -> bool:
        return self.state is State.READY or (self.state is State.DRAINING and self.is_replaced)

    def advance(self, state: State) -> None:
        """Go to ``state``; a repetition is allowed.

        Raises:
            ValueError: The step would go backwards.
        """
        if state is not self.state and state not in _NEXT[self.state]:
            raise ValueError(f"the state cannot change from {self.state} to {state}")
        self.state = state

    def fail(self, reason: str) -> None:
        """Note that the start failed for ``reason``, one sentence."""
        self.advance(State.FAILED)
        self.failure = reason
