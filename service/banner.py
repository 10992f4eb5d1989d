"""The port of the service, and the first lines that it says."""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import TYPE_CHECKING

from service.release import release
from service.settings import Settings
from service.start_lines import example_command

if TYPE_CHECKING:
    from service.models.catalog import ServedModel

logger = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address, not listening yet.

    Raises:
        OSError: The address does not exist or is in use.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def address_of(bound: socket.socket) -> tuple[str, int]:
    """IP address and port of a socket."""
    address, port = bound.getsockname()[:2]
    return address, port


def announce(settings: Settings, lines: str) -> None:
    """Say on the terminal, or in the log, how to use the service."""
    if settings.log_format == "json":
        # The address; the rest is for newcomers.
        logger.info(lines.splitlines()[0])
    else:
        _print(lines)


def _print(lines: str) -> None:
    """Print to standard output; where that fails, it leads nowhere from now on."""
    try:
        print(lines, flush=True)  # noqa: T201
    except OSError as error:
        logger.warning("standard output cannot be written: %s", error)
        # What its buffer still holds would fail again with each flush.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def banner(settings: Settings, model: ServedModel, bound: tuple[str, int]) -> str:
    """The first lines for a new user: address, model, and a command to try."""
    address, port = bound
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{address}]" if ":" in address else address)  # noqa: S104
    url = f"{'https' if settings.tls_cert else 'http'}://{host}:{port}"
    manifest, graph = model.manifest, model.graph
    height, width = graph.input_size
    return (
        f"ecenet {release()} is ready at {url}\n"
        f"  model  {manifest.name} {manifest.version}: {manifest.num_classes} classes, input {width}x{height}, "
        f"{model.engine_name} {graph.precision}\n"
        f"  try    {example_command(url)}\n"
        f"  docs   {url}/docs"
    )
