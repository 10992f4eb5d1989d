"""Packages of extras that are not installed: the text that says how to install them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_OWN = ("service", "trainer", "model_export")


class MissingExtraError(RuntimeError):
    """A package of an extra that is not installed; the text says how to install it."""


def install_command(extra: str) -> str:
    """The command that installs an extra, and where to run it: no package index has ECENet."""
    return f"pip install '.[{extra}]' in the folder of ECENet's source"


@contextmanager
def needing_extra(extra: str) -> Iterator[None]:
    """Imports that need the packages of an extra.

    Raises:
        MissingExtraError: One is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", *_OWN):
            raise
        raise MissingExtraError(f"{package} is not installed: {install_command(extra)}") from error
