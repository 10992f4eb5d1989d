"""The guard of connections: its log, the file handles, the connections of one process."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from service.connections.guard import ConnectionGuard
from service.connections.limits import (
    RESERVED_HANDLES,
    ConnectionLimits,
)
from tests.support.limited_server import ROOMY


@pytest.mark.anyio
async def test_refusals_are_logged_once_a_second_with_their_number_and_the_worst_clients(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, calls = 100.0, list[tuple[float, Callable[[], None]]]()
    loop = SimpleNamespace(time=lambda: now, call_at=lambda time, call: calls.append((time, call)))
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    guard = ConnectionGuard(ROOMY, lambda _: None)
    guard.refuse("header_size", "192.0.2.1")
    calls[0][1]()
    for client in (2, 3, 3, 3, 4, 5, 5):
        guard.refuse("slow_body", f"192.0.2.{client}")
    guard.refuse("host", "192.0.2.4")
    calls[1][1]()  # nothing else need be refused for it
    assert [time for time, _ in calls] == [100.0, 101.0]
    assert caplog.messages == [
        "refused connections (header_size: 1), most of them from 192.0.2.1: 1",
        "refused connections (slow_body: 7, host: 1), most of them from 192.0.2.3: 3, 192.0.2.4: 2, 192.0.2.5: 2",
    ]


def test_file_handles_lower_the_limit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    limits = ConnectionLimits(2048, 1024, 10).within_handles()
    assert limits == ConnectionLimits(2048, 1024, 10, of_process=256 - RESERVED_HANDLES)
    assert "raise ulimit -n" in caplog.text
    assert ConnectionLimits(100, 50, 10).within_handles() == ConnectionLimits(100, 50, 10)


def test_a_process_without_file_handles_refuses_whatever_others_have() -> None:
    guard = ConnectionGuard(ConnectionLimits(100, 100, 10, of_process=2), lambda _: None)
    assert [guard.open("192.0.2.1") for _ in range(3)] == [None, None, "connections"]
    guard.close("192.0.2.1")
    guard.close("192.0.2.1")
    assert guard.open("192.0.2.1") is None
