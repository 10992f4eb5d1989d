"""Connections of all workers: bounded together, in all and by client."""

from __future__ import annotations

import os

from service.connections.guard import ConnectionGuard
from service.connections.limits import ConnectionLimits
from service.workers.shared_connections import SharedConnections

HERE, THERE = "192.0.2.1", "192.0.2.2"


def test_totals_are_those_of_all_workers() -> None:
    first = SharedConnections.create(3)
    second = first.of(2)
    assert first.open(HERE) == (1, 1)
    assert second.open(HERE) == (2, 2)
    assert second.open(THERE) == (3, 1)
    first.close(HERE)
    assert first.open(THERE) == (3, 2)
    assert first.unsent(100) == 100
    assert second.unsent(50) == 150
    assert first.unsent(0) == 50


def test_the_next_worker_of_a_number_takes_out_what_the_last_one_had() -> None:
    first = SharedConnections.create(2)
    second = first.of(1)
    first.open(HERE)
    for _ in range(5):
        second.open(HERE)
    second.unsent(70)
    first.of(1).clear()
    assert first.open(HERE) == (2, 2)
    assert first.unsent(0) == 0


def test_another_process_is_counted() -> None:
    counts = SharedConnections.create(2)
    pid = os.fork()
    if pid == 0:
        counts.of(1).open(HERE)
        os._exit(0)
    os.waitpid(pid, 0)
    assert counts.open(HERE) == (2, 2)


def test_clients_are_hardly_ever_taken_for_others() -> None:
    counts = SharedConnections.create(1)
    numbers = [counts.open(f"2001:db8::{number:x}")[1] for number in range(1000)]
    assert numbers.count(1) > 900
    assert max(numbers) <= 2


def test_guards_of_workers_refuse_together() -> None:
    shared = SharedConnections.create(2)
    limits = ConnectionLimits(5, 3, 10)
    first, second = (ConnectionGuard(limits, lambda _: None, shared.of(row)) for row in range(2))
    assert [first.open(HERE), second.open(HERE), first.open(HERE)] == [None] * 3
    assert second.open(HERE) == "client_connections"
    assert second.open(THERE) is None
    assert first.open(THERE) == "connections"
