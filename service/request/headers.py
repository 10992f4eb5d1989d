"""Headers of a request."""

from __future__ import annotations

from starlette.datastructures import Headers


def list_header(headers: Headers, name: str) -> str:
    """A header whose value is a list: its lines are parts of one list, RFC 9110, 5.3. Without a line it is empty."""
    return ", ".join(headers.getlist(name))
