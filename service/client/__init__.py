"""A client of the service, sync and async, and ``ecenet-segment``, the command line around it.

from service.client import Client

with Client("http://127.0.0.1:8000") as client:
    labels = client.segment("street.jpg").labels()                # (H, W) uint8, class ids
    summary = client.segment("street.jpg", "json", rle=True).summary()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.client.answer import Answer
    from service.client.client import AsyncClient, Client
    from service.client.errors import ClientError, Refused, UnexpectedAnswer, Unreachable
    from service.client.options import Format, Parameters
    from service.client.parameters import ImageSource
    from service.client.retry import RetryPolicy

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "ClientError",
    "Format",
    "ImageSource",
    "Parameters",
    "Refused",
    "RetryPolicy",
    "UnexpectedAnswer",
    "Unreachable",
]

_MODULES = ("answer", "client", "errors", "options", "parameters", "retry")


def __getattr__(name: str) -> object:
    """Import on first use, so that ``ecenet-segment --help`` does not wait for the HTTP client."""
    if name in __all__:
        for module in map(importlib.import_module, (f"{__name__}.{module}" for module in _MODULES)):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
