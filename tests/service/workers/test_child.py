"""Children of the supervisor."""

from __future__ import annotations

import os
import signal
import socket
import time

from service.workers.child import describe_end, fork
from tests.support.forked import fresh

CHILDREN = 20


def sleep(_: socket.socket) -> int:
    time.sleep(3600)
    return 0


def signalled_at_once() -> list[str]:
    """Ends of children that get SIGTERM as soon as they are there, from a parent that handles it itself."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    ends = []
    for _ in range(CHILDREN):
        child = fork("sleeper", sleep, ())
        os.kill(child.pid, signal.SIGTERM)
        ends.append(describe_end(os.waitpid(child.pid, 0)[1]))
        child.control.close()
    return ends


def test_a_signal_that_comes_with_the_start_is_not_lost() -> None:
    assert fresh(signalled_at_once) == ["was killed by SIGTERM"] * CHILDREN
