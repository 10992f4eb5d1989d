"""Checks the files of TLS before the server starts; uvicorn would ask for a passphrase on the terminal."""

from __future__ import annotations

import ssl
from pathlib import Path

from service.settings import Settings, SettingsError


def check_tls(settings: Settings) -> None:
    """Check that certificate and key can be used, if they are set.

    Raises:
        SettingsError: A file that cannot be read, is not PEM, has a passphrase, or a key of another certificate.
    """
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None or key is None:
        return
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        _check_readable(option, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_refuse_passphrase)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise SettingsError(f"--tls-cert {certificate} and --tls-key {key} cannot be used: {reason}") from None


def _check_readable(option: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(f"{option} {path} cannot be read: {error.strerror}") from None


def _refuse_passphrase() -> str:
    raise SettingsError("--tls-key has a passphrase; openssl pkey -in KEY -out NEW removes it")
