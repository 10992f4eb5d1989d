"""Bounds of JSON before it is parsed: parsing holds the interpreter, and a value of two bytes becomes a hundred."""

from __future__ import annotations

from service.errors import BadRequest, PayloadTooLarge

MAX_MEMBERS = 1000
# Bytes that are counted or decoded in one go: a fraction of a millisecond, in which no other thread runs.
PIECE_BYTES = 1 << 18


def check_json(data: bytes, max_values: int, hint: str) -> None:
    """Check how much the JSON may become; marks inside of texts count too.

    Args:
        data: The JSON.
        max_values: Numbers, texts, lists and objects in it.
        hint: Advice to a client that sends more values.

    Raises:
        PayloadTooLarge: More values.
        BadRequest: More than ``MAX_MEMBERS`` members of objects.
    """
    values = members = 0
    for start in range(0, len(data), PIECE_BYTES):
        piece = data[start : start + PIECE_BYTES]
        values += sum(map(piece.count, (b",", b"[", b"{")))
        members += piece.count(b":")
    if values > max_values:
        raise PayloadTooLarge(
            f"the JSON holds {values} values, at most {max_values} are accepted: {hint}",
            extra={"value": values, "limit": max_values},
        )
    if members > MAX_MEMBERS:
        raise BadRequest(f"the JSON has {members} colons, at most {MAX_MEMBERS} are accepted in a request")
