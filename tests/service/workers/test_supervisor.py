"""The supervisor, with children that do what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from service.workers import channel, supervisor
from service.workers.channel import Channel
from service.workers.child import Child, fork
from service.workers.messages import Control
from service.workers.shared_ledger import SharedLedger
from service.workers.supervisor import Supervisor
from tests.support import forked
from tests.support.forked import fresh


class Mains:
    """Of the engine process and one worker, or two for a fast engine; they end as they should, if a test says nothing.

    Attributes:
        started: Names of the processes so far, also of those that could not be started.
        pids: Those that could.
    """

    def __init__(self) -> None:
        self.started: list[str] = []
        self.pids: list[int] = []

    def engine(self, control: socket.socket, choices: Any) -> int:
        while control.recv(1 << 16):
            pass
        return 0

    def worker(self, number: int, control: socket.socket) -> int:
        time.sleep(3600)
        return 0

    def prepare_workers(self) -> None:
        pass

    def announce(self, lines: str) -> None:
        pass

    def workers_for(self, images_per_s: float) -> int:
        return 2 if images_per_s > 100 else 1

    def share_among(self, workers: int) -> None:
        self.started.append(f"shares of {workers}")


def send(control: socket.socket, kind: Control, fields: dict[str, Any]) -> None:
    """Send the supervisor a message, as an event loop does."""

    async def on_a_loop() -> None:
        Channel(control, lambda *_: None, lambda: None).send_json(kind, fields)
        asyncio.get_running_loop().remove_reader(control)

    asyncio.run(on_a_loop())
    control.setblocking(True)


def run(mains: Mains, failing: Iterable[int] = (), process_timeout_s: float = 3600) -> tuple[int, str]:
    """The end of a service; of its starts of processes, those with the numbers fail."""

    def start(name: str, main: Callable[[socket.socket], int], inherited: Iterable[socket.socket]) -> Child:
        mains.started.append(name)
        if len(mains.started) in failing:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        child = fork(name, main, inherited)
        mains.pids.append(child.pid)
        child.started -= 3600  # as if the start took an hour
        return child

    vars(supervisor)["fork"] = start
    with socket.socket() as listener:
        ledger = SharedLedger.create(3)
        return Supervisor(
            mains, listener, ledger, workers=1, max_workers=2, drain_timeout_s=5, process_timeout_s=process_timeout_s
        ).run()


def with_failed_starts(victim: str) -> Any:
    """End and names of a service whose first engine process or worker dies, and of which two starts then fail."""

    class Dying(Mains):
        def engine(self, control: socket.socket, choices: Any) -> int:
            return self._live("engine") or super().engine(control, choices)

        def worker(self, number: int, control: socket.socket) -> int:
            return self._live("worker 0") or super().worker(number, control)

        def _live(self, name: str) -> int:
            if len(self.started) == 5:
                os.kill(os.getppid(), signal.SIGTERM)
            return int(name == victim and len(self.started) < 3)

    mains = Dying()
    return [*run(mains, failing=(3, 4)), mains.started]


@pytest.mark.parametrize("victim", ["engine", "worker 0"])
def test_a_process_that_the_system_does_not_start_is_started_later(victim: str) -> None:
    assert fresh(with_failed_starts, victim) == [0, "", ["engine", "worker 0", victim, victim, victim]]


def with_a_worker_that_cannot_start_again() -> Any:
    """End and names of a service whose worker is killed while it serves; the next one finds wrong settings."""

    class Typo(Mains):
        def engine(self, control: socket.socket, choices: Any) -> int:
            send(control, Control.READY, {"images_per_s": 0.0, "lines": "ready"})
            return super().engine(control, choices)

        def worker(self, number: int, control: socket.socket) -> int:
            match self.started.count("worker 0"):
                case 1:
                    control.send(bytes((Control.SERVING,)))
                case 2:
                    send(control, Control.FAILED, {"status": 2, "message": "a typo"})
                    return 2
                case _:
                    os.kill(os.getppid(), signal.SIGTERM)
            return super().worker(number, control)

        def announce(self, lines: str) -> None:
            assert lines == "ready"
            os.kill(self.pids[-1], signal.SIGKILL)

    mains = Typo()
    return [*run(mains), mains.started]


def test_a_worker_that_cannot_start_again_does_not_end_those_that_serve() -> None:
    assert fresh(with_a_worker_that_cannot_start_again) == [0, "", ["engine", *["worker 0"] * 3]]


def with_a_worker_that_fails_beside_the_engine() -> Any:
    """End of a service of which a worker finds wrong settings, and ends, while the end of the engine is noted."""
    go, told = os.pipe()

    class Typo(Mains):
        def engine(self, control: socket.socket, choices: Any) -> int:
            return 7 if self.started == ["engine"] else super().engine(control, choices)

        def worker(self, number: int, control: socket.socket) -> int:
            os.read(go, 1)
            send(control, Control.FAILED, {"status": 2, "message": "a typo"})
            return 2

    class Log(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            os.write(told, b".")
            os.waitid(os.P_PID, mains.pids[1], os.WEXITED | os.WNOWAIT)

    mains = Typo()
    supervisor.logger.addHandler(Log())
    return run(mains)


def test_a_worker_that_fails_while_the_engine_ends_tells_its_reason() -> None:
    assert fresh(with_a_worker_that_fails_beside_the_engine) == [2, "a typo"]


def without_handles_for_a_connection() -> Any:
    """End and names of a service that cannot connect its first worker with the engine process."""

    class Second(Mains):
        def worker(self, number: int, control: socket.socket) -> int:
            if self.started.count("worker 0") == 2:
                os.kill(os.getppid(), signal.SIGTERM)
            return super().worker(number, control)

    def socket_pair() -> tuple[socket.socket, socket.socket]:
        if mains.started.count("worker 0") == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return channel.socket_pair()

    mains = Second()
    vars(supervisor)["socket_pair"] = socket_pair
    return [*run(mains), mains.started]


def test_a_worker_that_cannot_be_connected_is_replaced() -> None:
    assert fresh(without_handles_for_a_connection) == [0, "", ["engine", "worker 0", "worker 0"]]


def with_an_engine_that_is_ready_too_late() -> Any:
    """End and names of a service whose engine process could use more workers, and serves when all shall stop."""

    class Late(Mains):
        def engine(self, control: socket.socket, choices: Any) -> int:
            os.kill(os.getppid(), signal.SIGTERM)
            while control.recv(1 << 16)[0] != Control.CLOSE:
                pass
            control.send(bytes((Control.READY,)) + b'{"images_per_s": 1000.0, "lines": "ready"}')
            return super().engine(control, choices)

    mains = Late()
    return [*run(mains), mains.started]


def test_a_service_that_stops_starts_no_workers() -> None:
    assert fresh(with_an_engine_that_is_ready_too_late) == [0, "", ["engine", "worker 0"]]


def with_a_fast_engine() -> Any:
    """End and names of a service whose engine process can use more workers, and the signal to the first of them."""
    is_waiting, waits = os.pipe()
    signalled, says = os.pipe()

    class Fast(Mains):
        def engine(self, control: socket.socket, choices: Any) -> int:
            os.read(is_waiting, 1)
            send(control, Control.READY, {"images_per_s": 1000.0, "lines": "ready"})
            return super().engine(control, choices)

        def worker(self, number: int, control: socket.socket) -> int:
            if len(self.started) == 2:
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
                os.write(waits, b".")
                os.write(says, bytes([signal.sigwait([signal.SIGINT, signal.SIGTERM])]))
                return 0
            if self.started.count("worker 0") == 2:
                os.kill(os.getppid(), signal.SIGTERM)
            return super().worker(number, control)

    mains = Fast()
    return [*run(mains), mains.started, *os.read(signalled, 1)]


def test_all_workers_of_a_fast_engine_have_equal_shares_and_the_first_are_told_that_they_are_replaced() -> None:
    started = ["engine", "worker 0", "shares of 2", "worker 1", "worker 0"]
    assert fresh(with_a_fast_engine) == [0, "", started, signal.SIGINT]


def with_dying_engines() -> Any:
    """End of a service whose engine processes die before they serve."""

    class Dying(Mains):
        def engine(self, control: socket.socket, choices: Any) -> int:
            return 7

    return run(Dying())


def test_engine_processes_that_die_before_they_serve_end_the_service() -> None:
    assert fresh(with_dying_engines) == [1, "the engine process ended with exit status 7, 3 times in a row"]


def with_a_process_that_freezes(victim: str) -> Any:
    """End and names of a service of which a process shows a sign of life, and then no more.

    Its other process shows them for longer than the limit, and the second one in its place none at all.
    """

    class Freezing(Mains):
        def engine(self, control: socket.socket, choices: Any) -> int:
            self._live("engine", control)
            return super().engine(control, choices)

        def worker(self, number: int, control: socket.socket) -> int:
            self._live("worker 0", control)
            return super().worker(number, control)

        def _live(self, name: str, control: socket.socket) -> None:
            if name != victim:
                for _ in range(30):
                    control.send(bytes((Control.ALIVE,)))
                    time.sleep(0.1)
                os.kill(os.getppid(), signal.SIGTERM)
            elif self.started.count(name) == 1:
                control.send(bytes((Control.ALIVE,)))
                time.sleep(3600)

    mains = Freezing()
    return [*run(mains, process_timeout_s=1), mains.started]


@pytest.mark.parametrize("victim", ["engine", "worker 0"])
def test_a_process_that_is_stuck_is_replaced(victim: str) -> None:
    assert fresh(with_a_process_that_freezes, victim) == [0, "", ["engine", "worker 0", victim]]


def with_pauses() -> Any:
    """End and names of a service whose supervisor is paused for longer than the limit after a sign of life."""

    class Lively(Mains):
        def engine(self, control: socket.socket, choices: Any) -> int:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
            control.send(bytes((Control.ALIVE,)))
            os.kill(os.getppid(), signal.SIGHUP)  # passed on after a look for processes that are stuck
            signal.sigwait([signal.SIGHUP])
            os.kill(os.getppid(), signal.SIGTERM)
            return super().engine(control, choices)

    mains = Lively()
    vars(supervisor)["time"] = SimpleNamespace(monotonic=itertools.count(0.0, 1000.0).__next__)
    return [*run(mains, process_timeout_s=100), mains.started]


def test_a_supervisor_that_was_paused_itself_finds_nobody_stuck() -> None:
    assert fresh(with_pauses) == [0, "", ["engine", "worker 0"]]


def with_failure(length: int) -> Any:
    """End of a service whose engine process fails for a reason of so many characters."""

    class Failing(Mains):
        def engine(self, control: socket.socket, choices: Any) -> int:
            send(control, Control.FAILED, {"status": 1, "message": "x" * length})
            return 1

    return run(Failing())


@pytest.mark.parametrize("length", [10, 100_000])
def test_the_reason_of_a_failed_start_is_told_however_long(length: int) -> None:
    assert fresh(with_failure, length) == [1, "x" * length]


def leaving_beside_a_full_pipe() -> Any:
    """Exit statuses of a service that gets two signals, and whose standard error nobody reads."""

    class Impatient(Mains):
        def engine(self, control: socket.socket, choices: Any) -> int:
            os.kill(os.getppid(), signal.SIGTERM)
            while control.recv(1 << 16)[0] != Control.CLOSE:
                pass
            os.kill(os.getppid(), signal.SIGTERM)
            return super().engine(control, choices)

        def worker(self, number: int, control: socket.socket) -> int:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return super().worker(number, control)

    def serve() -> None:
        _, full = os.pipe()
        os.set_blocking(full, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(full, bytes(4096))
        os.set_blocking(full, True)
        os.dup2(full, 2)
        signal.alarm(30)
        run(Impatient())

    return forked.wait_all(forked.fork(serve))


def test_the_second_signal_ends_a_service_whose_errors_nobody_reads() -> None:
    assert fresh(leaving_beside_a_full_pipe) == [128 + signal.SIGTERM]
