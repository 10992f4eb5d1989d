"""The process: ``ecenet-serve`` or ``python -m service``.

Exit status: 0 after a drain, 1 when the port or the model cannot be used, 2 for wrong settings.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.engines.exit_now import exit_now

if TYPE_CHECKING:
    from service.settings import Settings

logger = logging.getLogger("service")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, serve until a signal, and end the process."""
    _open_missing_streams()
    # Until the supervisor takes over; process 1 of a container has no default for SIGTERM and would ignore it, and
    # Ctrl-C would print a traceback.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _signal, _frame: os._exit(0))
    # It asks for a new search for models, which the start does anyway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # After the signals, which may come at any time.
    from service.command_line import describe, read_command_line  # noqa: PLC0415
    from service.logs import configure_logging  # noqa: PLC0415
    from service.settings import SettingsError, variable  # noqa: PLC0415

    try:
        command_line = read_command_line(arguments)
    except SettingsError as error:
        leave(2, str(error))
    if command_line.print_settings:
        print(describe(command_line))
        leave(0)
    settings = command_line.settings
    if settings.state_dir is not None:  # read there by model_export, also in the process that builds an engine
        os.environ[variable("state_dir")] = str(settings.state_dir)
    configure_logging(settings.log_level, settings.log_format)
    status, message = _explain_engine(settings) if command_line.explain_engine else _serve(settings)
    if message and settings.log_format == "json":
        logger.critical(message)
        message = ""
    leave(status, message)


def _open_missing_streams() -> None:
    """Let input, output and errors that the caller has closed lead nowhere: a socket would get their number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _explain_engine(settings: Settings) -> tuple[int, str]:
    """Print how the engines are chosen; gives the exit status, and what to say about it."""
    from service.model_directory.manifest import ManifestError  # noqa: PLC0415
    from service.models.explanation import explain_engines  # noqa: PLC0415

    try:
        print(explain_engines(settings), flush=True)
    except ManifestError as error:
        return 1, str(error)
    return 0, ""


def _serve(settings: Settings) -> tuple[int, str]:
    """Serve until a signal; gives the exit status, and what to say about it."""
    # After the settings: --help and a typo should not wait for the web framework.
    from service.banner import bind  # noqa: PLC0415
    from service.models.source import model_source  # noqa: PLC0415
    from service.processes import serve  # noqa: PLC0415
    from service.settings import SettingsError  # noqa: PLC0415
    from service.start_lines import taken_port  # noqa: PLC0415
    from service.tls import check_tls  # noqa: PLC0415

    try:
        check_tls(settings)
        bound = bind(settings.host, settings.port)
    except SettingsError as error:
        return 2, str(error)
    except OSError as error:
        hint = f"; {taken_port(settings.port)}" if error.errno == errno.EADDRINUSE else ""
        return 1, f"cannot listen on {settings.host} port {settings.port}: {error.strerror}{hint}"
    return serve(settings, lambda: model_source(settings), bound)


def leave(status: int, message: str = "") -> None:
    """End the process even if a thread is stuck inside an engine, which a normal exit would wait for."""
    if message:
        print(f"ecenet-serve: {message}", file=sys.stderr)
    exit_now(status)


if __name__ == "__main__":
    main()
