"""The process: ``ecenet-serve`` or ``python -m service``.

Exit status: 0 after a drain, 1 when the port or the model cannot be used, 2 for wrong settings.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from service.settings import Settings, SettingsError, read_settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, serve until a signal, and end the process."""
    # Until uvicorn takes over; process 1 of a container has no default for it and would ignore it.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: os._exit(0))
    try:
        settings = read_settings(arguments)
    except SettingsError as error:
        leave(2, str(error))
    _configure_logging(settings)
    leave(*_serve(settings))


def _serve(settings: Settings) -> tuple[int, str]:
    """Serve until a signal; gives the exit status, and what to say about it."""
    # After the settings: --help and a typo should not wait for the web framework.
    from model_export.manifest import ManifestError  # noqa: PLC0415
    from service.app import create_app  # noqa: PLC0415
    from service.server import Server, bind  # noqa: PLC0415

    try:
        bound = bind(settings.host, settings.port)
    except OSError as error:
        return 1, f"cannot listen on {settings.host} port {settings.port}: {error.strerror}"
    try:
        return Server(create_app(settings), bound).serve_until_signal(), ""
    except ManifestError as error:
        return 1, str(error)


def _configure_logging(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    if settings.log_level == "info":
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # Odd metadata in a client's file is no news of this process.
    warnings.filterwarnings("ignore", module="PIL")


def leave(status: int, message: str = "") -> None:
    """End the process even if a thread is stuck inside an engine, which a normal exit would wait for."""
    if message:
        print(f"ecenet-serve: {message}", file=sys.stderr)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
