"""Freed memory stays in the process, so that the next step need not fault it in again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, numpy
from trainer.memory import keep_freed_memory
kept = {keep} and keep_freed_memory()
for _ in range(2):
    numpy.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    numpy.ones(1 << 23)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_kept_memory_is_not_faulted_in_again() -> None:
    faults = {}
    for keep in (True, False):
        command = [sys.executable, "-c", SCRIPT.format(keep=keep)]
        kept, count = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert kept == str(keep)
        faults[keep] = int(count)
    assert faults[True] < 100
    assert faults[False] > faults[True]
