"""Runs a graph in its own process and prints its resident memory in bytes, before and at the peak, as JSON.

python -m benchmarks.attention.peak_memory GRAPH THREADS
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from benchmarks.attention.measure import open_session, random_inputs

_RUNS = 3  # as the memory that the first run frees comes in blocks that the second may not be able to use
_PROCESS = Path("/proc/self")


def resident(entry: str) -> int:
    """Bytes of an entry of Linux' ``/proc/self/status``: ``VmRSS`` is now, ``VmHWM`` the peak."""
    match = re.search(rf"^{entry}:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def main() -> None:
    """Print both figures."""
    graph, threads = sys.argv[1:]
    session = open_session(Path(graph), int(threads))
    inputs = random_inputs(session)
    (_PROCESS / "clear_refs").write_text("5")  # reset the peak
    before = resident("VmRSS")
    for _ in range(_RUNS):
        session.run(None, inputs)
    print(json.dumps({"before": before, "peak": resident("VmHWM")}))


if __name__ == "__main__":
    main()
