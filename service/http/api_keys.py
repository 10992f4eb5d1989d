"""API keys from a file and from a setting; a changed file takes effect within a second, a broken one changes nothing.

Keys are kept as SHA-256 digests. That is enough for keys that are made at random, and one that can be guessed is too
short here.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from service.settings import Settings, variable

logger = logging.getLogger(__name__)

MIN_KEY_LENGTH = 16
_CHECK_INTERVAL_S = 1.0
_MAX_FILE_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# What a header can carry; a comma would end the key in a list.
_KEY = re.compile(r"[!-+\--~]+")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


class ApiKeysError(ValueError):
    """Keys that cannot be used; the text says where they are, and never contains a key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The SHA-256 of one key, and the name of its owner; an owner may have several, to change keys at leisure."""

    name: str
    digest: bytes = field(repr=False)


class ApiKeys:
    """The keys that are valid now."""

    def __init__(
        self, fixed: tuple[ApiKey, ...] = (), file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the file.

        Args:
            fixed: Keys that stay.
            file: Further keys, read again at most every second.
            clock: Seconds that only go forward.

        Raises:
            ApiKeysError: The file cannot be read, is not understood or has no key.
        """
        self._fixed = fixed
        self._file = file
        self._clock = clock
        self._checked = clock()
        self._problem = ""
        self._content = b"" if file is None else _read(file)
        self._in_file = () if file is None else _parse_file(self._content, file)

    @property
    def are_set(self) -> bool:
        """True if there is a key."""
        return bool(self._fixed or self._in_file)

    def owner(self, key: bytes) -> str | None:
        """The name of the owner of ``key``; all valid keys are compared, each in constant time."""
        self._refresh()
        digest = hashlib.sha256(key).digest()
        found = [known.name for known in (*self._fixed, *self._in_file) if hmac.compare_digest(known.digest, digest)]
        return found[0] if found else None

    def _refresh(self) -> None:
        """Read the file again when it is due. Its content shows a change: times and inodes can stay the same."""
        if self._file is None or self._clock() < self._checked + _CHECK_INTERVAL_S:
            return
        self._checked = self._clock()
        try:
            content = _read(self._file)
            if content != self._content:
                self._in_file = _parse_file(content, self._file)
                self._content = content
                logger.info("reloaded the API keys from %s: %d keys", self._file, len(self._in_file))
            self._problem = ""
        except ApiKeysError as error:
            self._report(str(error))

    def _report(self, problem: str) -> None:
        """Log a problem once, not every second."""
        if problem != self._problem:
            logger.error("%s; its %d earlier keys stay valid", problem, len(self._in_file))
        self._problem = problem


def api_keys(settings: Settings) -> ApiKeys:
    """The keys that the settings ask for; none if they ask for none.

    Raises:
        ApiKeysError: See ``ApiKeys`` and ``parse_api_keys``.
    """
    fixed: tuple[ApiKey, ...] = ()
    if settings.api_keys is not None:
        fixed = parse_api_keys(settings.api_keys.get_secret_value().replace(",", "\n"), variable("api_keys"), "entry")
    return ApiKeys(fixed, settings.api_keys_file)


def parse_api_keys(text: str, source: str, unit: str = "line") -> tuple[ApiKey, ...]:
    """Read one key a line, ``NAME:KEY`` or ``NAME:sha256:HEX``; empty lines and those from ``#`` on do not count.

    Args:
        text: The lines.
        source: Where they are from, and ...
        unit: ... what a line is called there, both for errors.

    Raises:
        ApiKeysError: A line that is neither, a key too short or twice, or no key at all.
    """
    keys: dict[bytes, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        key = _parse_entry(entry, f"{unit} {number} of {source}")
        if key.digest in keys:
            raise ApiKeysError(f"{unit} {number} of {source} repeats the key of {keys[key.digest].name!r}")
        keys[key.digest] = key
    if not keys:
        raise ApiKeysError(f"{source} has no API key; write NAME:KEY, with a key such as openssl rand -hex 32 makes")
    return tuple(keys.values())


def _parse_entry(entry: str, place: str) -> ApiKey:
    name, _, key = entry.partition(":")
    if not _NAME.fullmatch(name) or not key:
        raise ApiKeysError(f"{place} is not NAME:KEY; a name has up to 64 letters, digits, dots, dashes, underscores")
    kind, _, digest = key.partition(":")
    if kind == "sha256":
        if not _DIGEST.fullmatch(digest):
            raise ApiKeysError(f"{place} has a SHA-256 of {len(digest)} characters that is not 64 hexadecimal digits")
        return ApiKey(name, bytes.fromhex(digest))
    if not _KEY.fullmatch(key):
        raise ApiKeysError(f"{place} has a key with characters other than visible ASCII ones without the comma")
    if len(key) < MIN_KEY_LENGTH:
        raise ApiKeysError(
            f"{place} has a key of {len(key)} characters, at least {MIN_KEY_LENGTH} are needed; "
            "openssl rand -hex 32 makes one"
        )
    return ApiKey(name, hashlib.sha256(key.encode()).digest())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ApiKeysError(f"the API keys file {path} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise ApiKeysError(f"the API keys file {path} has more than {_MAX_FILE_BYTES} bytes")
    return content


def _parse_file(content: bytes, path: Path) -> tuple[ApiKey, ...]:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ApiKeysError(f"the API keys file {path} is not UTF-8 text") from None
    return parse_api_keys(text, str(path))
