from __future__ import annotations

import errno
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from service.banner import banner, bind
from service.model_directory.manifest import Manifest
from service.settings import Settings


def test_taken_port_raises_and_free_port_is_chosen() -> None:
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        assert port > 0
        with pytest.raises(OSError, match="in use") as failure:
            bind("127.0.0.1", port)
        assert failure.value.errno == errno.EADDRINUSE


def test_unknown_host_raises() -> None:
    with pytest.raises(socket.gaierror):
        bind("256.256.256.256", 0)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        (("0.0.0.0", 8000), "http://127.0.0.1:8000"),
        (("::", 8000, 0, 0), "http://[::1]:8000"),
        (("fe80::1", 8000, 0, 0), "http://[fe80::1]:8000"),
    ],
)
def test_banner_names_an_address_that_a_client_can_use(manifest: Manifest, address: tuple[str, int], url: str) -> None:
    model: Any = SimpleNamespace(manifest=manifest, engine_name="fake", graph=manifest.graph)
    lines = banner(Settings(), model, address[:2]).splitlines()
    assert lines[0].endswith(f"is ready at {url}")
    assert lines[1].endswith("brightness 1.2.3: 3 classes, input 64x32, fake fp32")
    assert f"'{url}/segment?format=overlay'" in lines[2]
    assert lines[3].endswith(f"{url}/docs")


def test_bound_port_is_refused_until_the_server_listens() -> None:
    with bind("127.0.0.1", 0) as bound, pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname(), timeout=5)
