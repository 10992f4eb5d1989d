"""System calls that a process which decodes images does not need: programs, sockets, and the memory of others.

A filter of seccomp makes them fail with EPERM. It lists forbidden calls, not allowed ones, so that a new
release of a decoder's library keeps working. ``linux/seccomp.h`` and ``linux/bpf_common.h`` have the numbers.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
# Instructions: load a word of the call, jump if equal, jump if greater or equal, return.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000 | errno.EPERM
# Offsets of the call's number and the machine's in the filter's input.
_CALL, _MACHINE = 0, 4
# Numbers of the x32 interface, which would reach the same calls.
_X32 = 0x40000000
_INSTRUCTION = struct.Struct("HBBI")
# By machine its number for the filter, and the calls: socket, connect, bind, execve, execveat, ptrace,
# process_vm_readv, process_vm_writev, io_uring_setup, bpf, unshare, setns, mount, pidfd_getfd, userfaultfd.
_FORBIDDEN: dict[str, tuple[int, tuple[int, ...]]] = {
    "x86_64": (0xC000003E, (41, 42, 49, 59, 322, 101, 310, 311, 425, 321, 272, 308, 165, 438, 323)),
    "aarch64": (0xC00000B7, (198, 203, 200, 221, 281, 117, 270, 271, 425, 280, 97, 268, 40, 438, 282)),
}


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid_system_calls() -> bool:
    """Forbid them in this process for good, and new privileges too; False where only the latter could be done."""
    if sys.platform != "linux":
        return False
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # The kernel takes all arguments as words of the machine.
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or platform.machine() not in _FORBIDDEN:
        return False
    instructions = _filter(*_FORBIDDEN[platform.machine()])
    program = _Program(len(instructions) // _INSTRUCTION.size, instructions)
    # A container's own filter may forbid a further one.
    return int(prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0)) == 0


def _filter(machine: int, calls: tuple[int, ...]) -> bytes:
    """The instructions; jumps count from the next one, and all lead to the last, which fails."""
    count = len(calls)
    program = [
        (_LOAD, 0, 0, _MACHINE),
        (_IF_EQUAL, 0, count + 3, machine),
        (_LOAD, 0, 0, _CALL),
        (_IF_AT_LEAST, count + 1, 0, _X32),
        *((_IF_EQUAL, count - place, 0, call) for place, call in enumerate(calls)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL),
    ]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
