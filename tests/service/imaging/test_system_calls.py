"""The filter of system calls: what it forbids fails, and what decoders need works."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes, errno, mmap, os, socket, threading
from service.imaging.system_calls import forbid_system_calls

ours, theirs = socket.socketpair()
assert forbid_system_calls()
outcomes = {}
def attempt(name, call):
    try:
        call()
        outcomes[name] = "done"
    except OSError as error:
        outcomes[name] = errno.errorcode[error.errno]

def raw(number):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, 0, 0, 0, 0, 0) == -1:
        raise OSError(ctypes.get_errno(), "")

attempt("socket", lambda: socket.socket())
attempt("program", lambda: os.execv("/bin/true", ["true"]))
attempt("memory of others", lambda: raw({"x86_64": 310, "aarch64": 270}[os.uname().machine]))
attempt("ring", lambda: raw(425))
attempt("message", lambda: socket.send_fds(ours, [b"a"], [0]))
attempt("memory", lambda: os.close(os.memfd_create("a")))
attempt("mapping", lambda: mmap.mmap(-1, 4096))
attempt("file", lambda: open("/proc/self/statm").close())
attempt("thread", lambda: threading.Thread(target=int).start())
print(outcomes)
"""


@pytest.mark.skipif(platform.machine() not in {"x86_64", "aarch64"}, reason="the filter has no numbers of this machine")
def test_programs_sockets_and_the_memory_of_others_are_forbidden() -> None:
    run = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    forbidden = dict.fromkeys(["socket", "program", "memory of others", "ring"], "EPERM")
    allowed = dict.fromkeys(["message", "memory", "mapping", "file", "thread"], "done")
    assert run.stdout.strip() == str(forbidden | allowed)
