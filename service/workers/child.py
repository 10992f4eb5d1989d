"""Children of the supervisor: how they are forked, what they inherit, and how they end."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from service.engines.exit_now import exit_now
from service.workers.channel import socket_pair

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
# Signals that the supervisor handles. A child has its handlers until it sets its own, and would only note the signal.
_SUPERVISORS_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
# sysexits.h: an error in the program.
_EX_SOFTWARE = 70


@dataclass(slots=True)
class Child:
    """A process of the service.

    Attributes:
        name: For the log.
        pid: Its process id.
        control: The supervisor's end of the channel to it.
        started: Its start, by ``time.monotonic``.
        silent_s: Seconds without a sign of life, while the supervisor could have read one; None before the first.
    """

    name: str
    pid: int
    control: socket.socket
    started: float = field(default_factory=time.monotonic)
    silent_s: float | None = None


def fork(name: str, main: Callable[[socket.socket], int], inherited: Iterable[socket.socket]) -> Child:
    """Start a process that runs ``main`` and ends with its result.

    It gets no signal of the terminal, and ends with the supervisor in every case.

    Args:
        name: For the log, and for ps and top, which show 15 characters with "ecenet" before it.
        main: Gets the child's end of the channel to the supervisor.
        inherited: Connections of the supervisor that are not the child's.
    """
    ours, theirs = socket_pair()
    ours.setblocking(False)
    supervisor = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SUPERVISORS_SIGNALS)
    try:
        pid = os.fork()
    finally:  # also where there is no child; the child has its own signals first
        if os.getpid() == supervisor:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SUPERVISORS_SIGNALS)
    if pid:
        theirs.close()
        return Child(name, pid, ours)
    status = _EX_SOFTWARE
    try:
        for connection in (ours, *inherited):
            connection.close()
        _end_with(supervisor)
        _prctl(_PR_SET_NAME, f"ecenet {name}".encode())
        status = main(theirs)
    except BaseException:  # nothing of the supervisor may run in the child
        traceback.print_exc()
    finally:
        exit_now(status)


def limit_address_space(max_bytes: int | None) -> None:
    """Let allocations beyond ``max_bytes`` of address space fail in this process; None sets no limit."""
    if max_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))


def describe_end(status: int) -> str:
    """Name the end of a process by the status of ``os.waitpid``."""
    code = os.waitstatus_to_exitcode(status)
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"


def _end_with(supervisor: int) -> None:
    """Make this process end with its supervisor, and leave its signals."""
    # Ctrl-C goes to the foreground group of a terminal; the supervisor decides what its children do.
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SUPERVISORS_SIGNALS)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it ended before the call
        os._exit(_EX_SOFTWARE)
    gc.freeze()


def _prctl(option: int, argument: bytes | int) -> None:
    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)
