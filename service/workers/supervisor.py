"""The supervisor: owns the port and the signals, starts the engine process and the workers, and restarts them.

It runs no event loop and no thread, and reads no untrusted bytes, so that it can fork at any time and does not fail.
"""

from __future__ import annotations

import logging
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Protocol

from service.workers.channel import read_json, socket_pair
from service.workers.child import Child, describe_end, fork
from service.workers.messages import Control
from service.workers.shared_ledger import SharedLedger

logger = logging.getLogger(__name__)

# Starts of an engine process that end before it serves, one after the other, however long they take; then the service
# ends.
_MAX_ENGINE_STARTS = 3
# A worker that ends at once is restarted after a pause, so that a loop of crashes leaves the CPU to others. So is a
# process that the system did not start.
_MIN_WORKER_INTERVAL_S = 0.5
# In the place of a worker's number.
_ENGINE = -1
# A supervisor that was paused itself, as by `docker pause`, has missed no more than this.
_LONGEST_STEP_S = 2.0
# Beyond the drain, for processes that do not end on their own.
_KILL_AFTER_S = 5.0
_TICK_S = 0.1


class Mains(Protocol):
    """The main functions of the processes."""

    def engine(self, control: socket.socket, choices: Any) -> int:
        """Run the engine process; gives the exit status.

        Args:
            control: To the supervisor.
            choices: The last ``CHOICES`` of an engine process; None if there were none.
        """
        ...

    def prepare_workers(self) -> None:
        """Load what all workers share, once, before the first of them is forked."""

    def worker(self, number: int, control: socket.socket) -> int:
        """Run worker ``number``; gives the exit status."""
        ...

    def announce(self, lines: str) -> None:
        """Say how to use the service."""

    def workers_for(self, images_per_s: float) -> int:
        """Number of workers for an engine of so many images a second."""
        ...

    def share_among(self, workers: int) -> None:
        """Give a worker that starts from now on the share of one of so many."""


class Supervisor:
    """Runs the service; ``run`` is all there is to call."""

    def __init__(
        self,
        mains: Mains,
        listener: socket.socket,
        ledger: SharedLedger,
        *,
        workers: int,
        max_workers: int,
        drain_timeout_s: float,
        process_timeout_s: float,
    ) -> None:
        """Prepare; no process runs before ``run``.

        Args:
            mains: What the processes do.
            listener: The bound socket; workers accept connections on it.
            ledger: Counts of the processes; worker N has row N.
            workers: Number of workers at the start.
            max_workers: Most workers.
            drain_timeout_s: Seconds that workers have to end after SIGTERM.
            process_timeout_s: Seconds without a sign of life after which a process is killed.
        """
        self._mains = mains
        self._listener = listener
        self._ledger = ledger
        self._wanted = workers
        self._max_workers = max_workers
        self._drain_timeout_s = drain_timeout_s
        self._process_timeout_s = process_timeout_s
        self._looked = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._engine: Child | None = None
        self._engine_starts = 0
        self._choices: Any = None
        self._workers: dict[int, Child] = {}
        self._due: dict[int, float] = {}
        self._is_stopping = False
        self._kill_at = float("inf")
        self._outcome = (0, "")
        self._signalled = False
        self._is_announced = False
        self._lines = ""
        self._serving: set[str] = set()
        self._hung_up = False

    def run(self) -> tuple[int, str]:
        """Serve until a signal; gives the exit status, and what to say about it."""
        wake, woken = socket.socketpair()
        for end in (wake, woken):
            end.setblocking(False)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        self._selector.register(wake, selectors.EVENT_READ)
        self._wake = wake
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop_by_signal)
        signal.signal(signal.SIGHUP, self._hang_up)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._start(_ENGINE)
        self._mains.prepare_workers()
        for worker in range(self._wanted):
            self._start(worker)
        while self._engine is not None or self._workers or self._due:
            self._wait()
            if self._signalled:
                self._stop(0)
            self._kill_silent()
            self._reap()
            if self._hung_up and self._engine is not None:
                self._hung_up = False
                os.kill(self._engine.pid, signal.SIGHUP)
            self._start_due()
            self._end_what_is_left()
        signal.set_wakeup_fd(-1)
        return self._outcome

    def _wait(self) -> None:
        """Wait for a signal, a message or a time."""
        for key, _ in self._selector.select(_TICK_S if self._due or self._is_stopping else 1.0):
            if key.fileobj is self._wake:
                self._wake.recv(4096)
            else:
                self._read(key.data)

    def _read(self, child: Child) -> None:
        """Take the messages of a child."""
        while True:
            try:
                packet, descriptors, _, _ = socket.recv_fds(child.control, 1 << 16, 1)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._forget_control(child)
                return
            if packet[0] == Control.FAILED:
                self._fail(child, **read_json(packet[1:], *descriptors))
            elif packet[0] == Control.READY:
                self._take_engine(**read_json(packet[1:], *descriptors))
                self._announce_once()
            elif packet[0] == Control.CHOICES:
                self._choices = read_json(packet[1:], *descriptors)
            elif packet[0] == Control.ALIVE:
                child.silent_s = 0.0
            elif packet[0] == Control.SERVING:
                self._serving.add(child.name)
                self._announce_once()

    def _fail(self, child: Child, status: int, message: str) -> None:
        """A process cannot start: end the service, unless it is a worker in the place of one that served."""
        if self._is_announced and child is not self._engine:
            logger.error("the %s process cannot start: %s", child.name, message)
        else:
            self._stop(status, message)

    def _announce_once(self) -> None:
        """Say how to use the service when the engine and all workers serve."""
        if self._lines and not self._is_announced and len(self._serving) >= self._wanted:
            self._is_announced = True
            self._mains.announce(self._lines)

    def _take_engine(self, images_per_s: float, lines: str) -> None:
        """The engine process serves: start more workers if it can use them."""
        self._engine_starts = 0
        self._lines = lines
        wanted = min(self._max_workers, self._mains.workers_for(images_per_s))
        if wanted > self._wanted and not self._is_stopping:
            logger.info("%d workers, because the engine runs %.0f images/s", wanted, images_per_s)
            self._mains.share_among(wanted)
            for child in self._workers.values():  # they have larger shares; their successors have not
                os.kill(child.pid, signal.SIGINT)  # replaced: see ``service.server``
            for worker in range(self._wanted, wanted):
                self._start(worker)
            self._wanted = wanted

    def _start(self, number: int) -> None:
        """Start a worker or the engine process; later where the system has no room for it now, not while stopping."""
        if self._is_stopping:
            return
        try:
            if number == _ENGINE:
                self._start_engine()
            else:
                self._start_worker(number)
        except OSError as error:
            logger.error("a process cannot be started, and is tried again: %s", error)
            self._due[number] = time.monotonic() + _MIN_WORKER_INTERVAL_S

    def _start_engine(self) -> None:
        self._engine = self._fork("engine", lambda control: self._mains.engine(control, self._choices))
        self._engine_starts += 1
        for worker, child in self._workers.items():
            self._connect(worker, child)

    def _start_worker(self, worker: int) -> None:
        self._workers[worker] = child = self._fork(
            f"worker {worker}", lambda control: self._mains.worker(worker, control), serves=True
        )
        self._connect(worker, child)

    def _fork(self, name: str, main: Callable[[socket.socket], int], *, serves: bool = False) -> Child:
        inherited = [child.control for child in self._children()] + ([] if serves else [self._listener])
        child = fork(name, main, inherited)
        self._selector.register(child.control, selectors.EVENT_READ, child)
        return child

    def _connect(self, worker: int, child: Child) -> None:
        """Connect a worker with the engine process."""
        if self._engine is None:
            return
        try:
            ours, theirs = socket_pair()
        except OSError as error:  # the next one in its place is connected
            logger.error("the %s process cannot be connected, and is ended: %s", child.name, error)
            os.kill(child.pid, signal.SIGKILL)
            return
        with ours, theirs:
            _send(self._engine, Control.WORKER, bytes((worker & 0xFF,)), ours)
            _send(child, Control.ENGINE, b"", theirs)

    def _kill_silent(self) -> None:
        """Kill processes whose event loop stands still; what is stopping has its own limit."""
        if self._is_stopping:
            return
        now = time.monotonic()
        step_s, self._looked = min(now - self._looked, _LONGEST_STEP_S), now
        for child in self._children():
            if child.silent_s is None:
                continue
            child.silent_s += step_s
            if child.silent_s > self._process_timeout_s:
                logger.error("the %s process is killed: stuck for more than %g s", child.name, self._process_timeout_s)
                os.kill(child.pid, signal.SIGKILL)
                child.silent_s = None

    def _reap(self) -> None:
        """Take note of processes that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._engine is not None and pid == self._engine.pid:
                self._engine_ended(self._engine, status)
            for worker, child in list(self._workers.items()):
                if child.pid == pid:
                    self._worker_ended(worker, child, status)

    def _engine_ended(self, child: Child, status: int) -> None:
        self._read(child)
        self._forget_control(child)
        self._engine = None
        if self._is_stopping:
            return
        if self._engine_starts >= _MAX_ENGINE_STARTS:
            self._stop(1, f"the engine process {describe_end(status)}, {self._engine_starts} times in a row")
            return
        logger.error("the engine process %s; it is started again", describe_end(status))
        self._start(_ENGINE)

    def _worker_ended(self, worker: int, child: Child, status: int) -> None:
        del self._workers[worker]  # first: its last message may stop the service, which sends the others signals
        self._read(child)
        self._forget_control(child)
        self._ledger.of(worker).clear()
        if self._is_stopping:
            return
        level = logging.ERROR if status else logging.INFO
        logger.log(level, "worker %d %s; it is started again", worker, describe_end(status))
        self._due[worker] = child.started + _MIN_WORKER_INTERVAL_S

    def _start_due(self) -> None:
        for worker, due in list(self._due.items()):
            if time.monotonic() >= due:
                del self._due[worker]
                self._start(worker)

    def _stop(self, status: int, message: str = "") -> None:
        """Let the workers answer the requests inside, then end all processes."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._outcome = (status, message)
        self._due.clear()
        # Workers have the port until they have drained; with this copy it would stay open forever.
        self._listener.close()
        self._kill_at = time.monotonic() + self._drain_timeout_s + _KILL_AFTER_S
        if self._engine is not None:
            _send(self._engine, Control.CLOSE)
        for child in self._workers.values():
            os.kill(child.pid, signal.SIGTERM)

    def _end_what_is_left(self) -> None:
        """When the workers are gone the engine process may go; what does not go in time is killed."""
        if not self._is_stopping:
            return
        if not self._workers and self._engine is not None and self._engine.control.fileno() >= 0:
            self._forget_control(self._engine)
            self._kill_at = min(self._kill_at, time.monotonic() + _KILL_AFTER_S)
        if time.monotonic() >= self._kill_at:
            self._kill_all()

    def _kill_all(self) -> None:
        for child in self._children():
            os.kill(child.pid, signal.SIGKILL)

    def _children(self) -> list[Child]:
        return [*([] if self._engine is None else [self._engine]), *self._workers.values()]

    def _forget_control(self, child: Child) -> None:
        if child.control.fileno() >= 0:
            self._selector.unregister(child.control)
            child.control.close()

    def _stop_by_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain on the first signal, leave on the second."""
        if self._signalled:
            with suppress(OSError):
                if select.select((), (sys.stderr,), (), 0)[1]:  # or else nobody reads it, and a write would wait
                    os.write(sys.stderr.fileno(), b"ecenet-serve: second signal, leaving at once\n")
            os._exit(128 + number)  # the children end with this process
        self._signalled = True

    def _hang_up(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._hung_up = True


def _send(child: Child, kind: Control, fields: bytes = b"", connection: socket.socket | None = None) -> None:
    """Send a message to a child; one that does not read its messages, or is gone, is dealt with when it ends."""
    packet: Any = [bytes((kind,)) + fields]
    try:
        if connection is None:
            child.control.send(packet[0])
        else:
            socket.send_fds(child.control, packet, [connection.fileno()])
    except OSError as error:
        logger.debug("no message can be sent to the %s process: %s", child.name, error)
