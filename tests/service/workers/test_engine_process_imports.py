"""The engine process starts without what serves HTTP, whose import takes longer than that of all it needs."""

from __future__ import annotations

import subprocess
import sys


def test_the_engine_process_needs_no_web_framework() -> None:
    program = (
        "import sys, service.models.source, service.processes, service.traces, service.workers.engine_process;"
        "web = {'PIL', 'fastapi', 'httpx', 'multipart', 'starlette', 'uvicorn'};"
        "print(sorted(web & {name.partition('.')[0] for name in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
