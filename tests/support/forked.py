"""Functions that fork, each in a fresh interpreter: pytest's own process has threads, and a fork takes only one."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tests.support.limits import HANG_S

ROOT = Path(__file__).parents[2]


def fresh(scenario: Callable[..., Any], *arguments: Any) -> Any:
    """Result of a function of a module in a new interpreter; arguments and result are JSON.

    Its children are killed when it ends, also if it fails or hangs.
    """
    module = Path(inspect.getfile(scenario)).relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    source = (
        f"import json, {module} as module\n"
        f"print(json.dumps(module.{scenario.__name__}(*json.loads({json.dumps(arguments)!r}))))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=HANG_S)
        finally:
            _kill_group(process.pid)
    assert process.returncode == 0
    return json.loads(output)


def fork(job: Callable[[], object]) -> int:
    """Run ``job`` in a child; gives its process id."""
    pid = os.fork()
    if pid == 0:
        _run_and_leave(job)
    return pid


def wait_all(*pids: int) -> list[int]:
    """The exit statuses of children, a signal as a negative number."""
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def _run_and_leave(job: Callable[[], object]) -> NoReturn:
    status = 1
    os.dup2(2, 1)  # the reader of the result waits until nobody holds the pipe
    try:
        job()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
