"""This service around the engine of the others; see ``ecenet-serve``.

python -m benchmarks.peers.servers.ours PORT
"""

from __future__ import annotations

import sys

from benchmarks.peers.work import WINDOW_S, Work
from service.__main__ import leave
from service.banner import bind
from service.command_line import read_settings
from service.models.source import GivenModel
from service.processes import serve


def main() -> None:
    """Serve until a signal."""
    work = Work()
    options = {
        "port": sys.argv[1],
        "log-level": "error",
        # No balancer has to notice that the service stops, and no peer waits for one.
        "drain-delay-s": 0,
    }
    if work.engine_name != "measured":  # which serves with all defaults
        options |= {"max-batch-size": work.max_batch_size, "batch-window-ms": 1000 * WINDOW_S}
    settings = read_settings([text for option, value in options.items() for text in (f"--{option}", str(value))])
    bound = bind(settings.host, settings.port)
    # The engine is made where it runs.
    leave(*serve(settings, lambda: GivenModel(work.engine, work.manifest), bound))


if __name__ == "__main__":
    main()
