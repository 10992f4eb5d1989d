"""TLS: the service speaks HTTPS with its certificate, and files that cannot be used are told at the start."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from service.banner import bind
from service.http.app import create_app
from service.lifecycle import State
from service.model_directory.manifest import Manifest
from service.server import Server
from service.settings import Settings, SettingsError
from service.tls import check_tls
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    """Certificate and key of this machine."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued = authority.issue_cert("127.0.0.1")
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return certificate, key


async def test_service_speaks_https_with_the_certificate(
    engine: FakeEngine, manifest: Manifest, authority: trustme.CA, files: tuple[Path, Path]
) -> None:
    settings = Settings(tls_cert=files[0], tls_key=files[1], codec_threads=1, drain_delay_s=0, log_format="json")
    check_tls(settings)
    app = create_app(settings, engine, manifest)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        server = Server(app, bound)
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started:
            assert not serving.done(), serving.exception()
            await asyncio.sleep(0.001)
        await app.state.runtime.started.wait()
        async with httpx.AsyncClient(verify=trusting) as http:
            response = await http.get(f"https://127.0.0.1:{port}/healthz")
            with pytest.raises(httpx.TransportError):
                await http.get(f"http://127.0.0.1:{port}/healthz")
        async with httpx.AsyncClient() as stranger:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await stranger.get(f"https://127.0.0.1:{port}/healthz")
        server.should_exit = True
        await serving
    assert (response.status_code, response.json()["state"]) == (200, "ready")
    assert app.state.runtime.lifecycle.state is State.STOPPED


def test_no_tls_is_fine() -> None:
    check_tls(Settings())


def test_missing_file_is_named(files: tuple[Path, Path]) -> None:
    missing = files[0].with_name("missing.pem")
    with pytest.raises(SettingsError, match=r"--tls-cert .*missing.pem cannot be read: No such file"):
        check_tls(Settings(tls_cert=missing, tls_key=files[1]))
    with pytest.raises(SettingsError, match=r"--tls-key .*missing.pem cannot be read: No such file"):
        check_tls(Settings(tls_cert=files[0], tls_key=missing))


def test_key_of_another_certificate_is_refused(authority: trustme.CA, files: tuple[Path, Path]) -> None:
    files[1].write_bytes(authority.issue_cert("other.example").private_key_pem.bytes())
    with pytest.raises(SettingsError, match=r"cert.pem and --tls-key .*key.pem cannot be used: key values mismatch"):
        check_tls(Settings(tls_cert=files[0], tls_key=files[1]))


def test_file_that_is_no_certificate_is_refused(files: tuple[Path, Path]) -> None:
    files[0].write_text("no certificate")
    with pytest.raises(SettingsError, match=r"cert.pem and --tls-key .* cannot be used"):
        check_tls(Settings(tls_cert=files[0], tls_key=files[1]))


def test_passphrase_is_not_asked_for_on_the_terminal(files: tuple[Path, Path]) -> None:
    key = load_pem_private_key(files[1].read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    files[1].write_bytes(locked)
    with pytest.raises(SettingsError, match="--tls-key has a passphrase"):
        check_tls(Settings(tls_cert=files[0], tls_key=files[1]))
