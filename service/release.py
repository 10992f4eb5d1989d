"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """Version of the installed package."""
    try:
        return version("ecenet")
    except PackageNotFoundError:
        return "0+unknown"
