"""The process that builds engines for a service: it ends with the service, even if the service is killed.

    python -m service.engines.tensorrt.build_process PARENT_PID JSON

The JSON holds the fields of ``BuildRequest``. Progress and results are lines on standard output.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from service.engines.tensorrt.build import BuildOptions, build_engines

# Begins the line that says why a build failed.
FAILURE_PREFIX = "build failed: "
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Engines to build.

    Attributes:
        model_dir: The model directory.
        engine_dir: Folder of the engines.
        options: Which engines, and how.
    """

    model_dir: Path
    engine_dir: Path
    options: BuildOptions

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> BuildRequest:
        """The request that ``to_json`` wrote."""
        fields = json.loads(text)
        options = fields["options"]
        sizes = tuple((height, width) for height, width in options.pop("sizes"))
        return cls(Path(fields["model_dir"]), Path(fields["engine_dir"]), BuildOptions(sizes=sizes, **options))


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, or the process of that thread.

    Args:
        parent: The id of the parent process. If that process has ended, this one exits at once.

    Raises:
        OSError: The kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def main(arguments: Sequence[str]) -> int:
    """Build, and print a line per engine; gives the exit status."""
    parent, request_json = arguments
    end_with_parent(int(parent))
    request = BuildRequest.from_json(request_json)
    try:
        reports = build_engines(request.model_dir, request.engine_dir, request.options, _print)
    except (ValueError, OSError, RuntimeError) as error:
        _print(f"{FAILURE_PREFIX}{error}")
        return 1
    for report in reports:
        _print(str(report))
    return 0


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
