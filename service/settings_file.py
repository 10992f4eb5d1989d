"""The settings file: TOML without tables, whose keys are the names of the fields of ``Settings``."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from service.settings import SettingsError


def read_settings_file(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The values of a settings file by field name, as TOML has them.

    Args:
        path: The file; paths inside it are relative to the working directory, as everywhere else.
        names: Keys that it may have.

    Raises:
        SettingsError: No such file, not TOML, or keys that are no settings; the text names the nearest that is one.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from None
    unknown = [_unknown_key(key, names) for key in values if key not in names]
    if unknown:
        raise SettingsError(f"the settings file {path} has {', and '.join(unknown)}")
    return values


def _unknown_key(key: str, names: Collection[str]) -> str:
    nearest = difflib.get_close_matches(key.lower().replace("-", "_"), names, n=1, cutoff=0)
    return f"the unknown key {key!r}; the nearest setting is {nearest[0]!r}"
