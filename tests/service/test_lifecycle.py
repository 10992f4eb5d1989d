from __future__ import annotations

import pytest

from service.lifecycle import Lifecycle, State


def test_a_process_starts_serves_drains_and_stops() -> None:
    lifecycle = Lifecycle()
    assert (lifecycle.state, lifecycle.is_ready) == (State.STARTING, False)
    lifecycle.advance(State.READY)
    assert lifecycle.is_ready
    lifecycle.advance(State.DRAINING)
    assert not lifecycle.is_ready
    lifecycle.advance(State.DRAINING)
    lifecycle.advance(State.STOPPED)
    assert lifecycle.state is State.STOPPED


def test_a_worker_that_is_replaced_is_ready_until_it_stops() -> None:
    lifecycle = Lifecycle()
    lifecycle.is_replaced = True
    assert not lifecycle.is_ready
    for state, is_ready in ((State.READY, True), (State.DRAINING, True), (State.STOPPED, False)):
        lifecycle.advance(state)
        assert lifecycle.is_ready == is_ready


def test_a_failed_start_keeps_its_reason_while_it_drains() -> None:
    lifecycle = Lifecycle()
    lifecycle.fail("no such graph")
    lifecycle.advance(State.DRAINING)
    assert lifecycle.failure == "no such graph"


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ([State.READY], State.STARTING),
        ([State.READY], State.FAILED),
        ([State.DRAINING], State.READY),
        ([State.DRAINING, State.STOPPED], State.DRAINING),
        ([State.FAILED], State.READY),
        ([], State.STOPPED),
    ],
)
def test_no_step_leads_back(path: list[State], refused: State) -> None:
    lifecycle = Lifecycle()
    for state in path:
        lifecycle.advance(state)
    with pytest.raises(ValueError, match=f"to {refused}"):
        lifecycle.advance(refused)
