"""JSON of many corners in pieces: the encoder holds the GIL while it writes one piece."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

# Entries of an array that one call of the encoder writes.
_CHUNK = 4096


def json_text(value: object) -> str:
    """Write a small value."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def json_array(items: Iterable[str]) -> str:
    """Join JSON texts to an array."""
    return f"[{','.join(items)}]"


def json_numbers(numbers: NDArray[Any]) -> str:
    """Write an array of numbers, of any shape and length."""
    return json_array(json_text(numbers[at : at + _CHUNK].tolist())[1:-1] for at in range(0, len(numbers), _CHUNK))


def json_object(small: dict[str, object], **large: str) -> str:
    """Write an object: small values, then those that are JSON texts already."""
    members = [*(f"{json_text(key)}:{json_text(value)}" for key, value in small.items())]
    members += [f"{json_text(key)}:{text}" for key, text in large.items()]
    return f"{{{','.join(members)}}}"
