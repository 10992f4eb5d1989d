"""The command of HEALTHCHECK against a server that is ready, is not, or is not there."""

from __future__ import annotations

import os
import runpy
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme

from service.settings import Settings
from tests.support.limits import HANG_S

PROGRAM = Path(__file__).resolve().parents[2] / "docker" / "healthcheck.py"


def check(**variables: str) -> tuple[int, str]:
    """Exit status and output."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ECENET_")}
    command = [sys.executable, "-I", str(PROGRAM)]
    environment = {**inherited, **variables}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=HANG_S)
    assert result.stderr == ""
    return result.returncode, result.stdout.strip()


@contextmanager
def server(status: int, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a server that answers ``/readyz`` with a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/readyz"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"state")

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield listening.server_port
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1), (404, 1)])
def test_only_200_is_healthy(status: int, expected: int) -> None:
    with server(status) as port:
        assert check(ECENET_PORT=str(port)) == (expected, f"{status} state")


def test_nobody_there_is_unhealthy(free_tcp_port: int) -> None:
    status, output = check(ECENET_PORT=str(free_tcp_port))
    assert status == 1
    assert output.startswith("no answer: ")


def test_a_service_with_a_certificate_is_asked_by_https(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("example.org").configure_cert(context)
    with server(200, context) as port:
        assert check(ECENET_PORT=str(port), ECENET_TLS_CERT="cert.pem") == (0, "200 state")
        assert check(ECENET_PORT=str(port))[0] == 1


@pytest.mark.parametrize("value", ["", "tcp://10.0.0.1:80"])
def test_no_port_and_that_which_kubernetes_sets_mean_the_default(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECENET_PORT", value)
    monkeypatch.delenv("ECENET_TLS_CERT", raising=False)
    connection = runpy.run_path(str(PROGRAM))["connection"]()
    assert (connection.host, connection.port) == ("127.0.0.1", Settings.model_fields["port"].default)
