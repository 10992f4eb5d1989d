"""The service around the model that sleeps, in one process or in several.

python -m benchmarks.feed.server --port 8000 --workers 2
"""

from __future__ import annotations

import argparse
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from service.__main__ import leave
from service.command_line import read_settings

if TYPE_CHECKING:
    from benchmarks.feed.sleeping import SleepingModel
    from service.settings import Settings

_BATCH = 8


def serve(arguments: argparse.Namespace, settings: Settings, bound: socket.socket) -> tuple[int, str]:
    """Serve until a signal; gives the exit status, and what to say about it."""
    if arguments.workers:
        # A supervisor imports no more than it needs, and a checkout that is compared with may not have it.
        from service.processes import serve as serve_in_processes  # noqa: PLC0415

        return serve_in_processes(settings, lambda: model_of(arguments), bound)
    from service.http.app import assemble  # noqa: PLC0415
    from service.server import Server  # noqa: PLC0415

    Server(assemble(settings, model_of(arguments)), bound).serve_until_signal()
    return 0, ""


def model_of(arguments: argparse.Namespace) -> SleepingModel:
    """The model of the command line."""
    from benchmarks.feed.sleeping import Sleep, SleepingModel, sleeping_manifest  # noqa: PLC0415

    height, width = map(int, arguments.input.split("x"))
    sleep = Sleep(arguments.fixed_ms / 1000, arguments.image_ms / 1000)
    return SleepingModel(sleeping_manifest((height, width)), sleep, _BATCH, arguments.pid_file)


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0, help="default: everything in one process")
    parser.add_argument("--input", default="576x768", help="height and width of the model; default: %(default)s")
    parser.add_argument("--fixed-ms", type=float, default=4, help="of a batch; default: %(default)s")
    parser.add_argument("--image-ms", type=float, default=1, help="of each of its images; default: %(default)s")
    parser.add_argument("--pid-file", type=Path, help="gets the id of the process with the engine")
    arguments = parser.parse_args()
    options = {"log-level": "error", "drain-delay-s": 0, "max-batch-size": _BATCH}
    if arguments.workers:
        options["workers"] = arguments.workers
    settings = read_settings([text for option, value in options.items() for text in (f"--{option}", str(value))])
    leave(*serve(arguments, settings, socket.create_server(("127.0.0.1", arguments.port))))


if __name__ == "__main__":
    main()
