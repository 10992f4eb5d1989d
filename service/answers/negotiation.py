"""Content negotiation: the ``Accept`` header chooses the format of an answer (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

from service.answers.schemas import AnswerFormat
from service.errors import NotAcceptable

# Media types of the answers to one image, in the service's order of preference.
OFFERS: tuple[tuple[str, AnswerFormat], ...] = (
    ("image/png", AnswerFormat.LABELS),
    ("application/json", AnswerFormat.JSON),
    ("application/geo+json", AnswerFormat.CONTOURS),
    ("application/x-npy", AnswerFormat.NPY),
    ("application/octet-stream", AnswerFormat.NPY),
)
T = TypeVar("T")
# A browser's has 150. All entries are read on the event loop.
_MAX_ACCEPT_CHARACTERS = 4096
_QUALITY = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)
_RANGE = re.compile(r"[^\s/;,]+/[^\s/;,]+")


def negotiate(accept: str | None, offers: Sequence[tuple[str, T]], parameter: str) -> tuple[str, T]:
    """Choose the offer that the client prefers; among equals the first.

    A media type has the quality of the most specific range that names it. Entries that cannot be parsed are ignored.

    Args:
        accept: The header.
        offers: Media types with their values, in the service's order of preference.
        parameter: Name of the parameter that overrides the header, for the message of the error.

    Raises:
        NotAcceptable: The client accepts none of the offers, or the header is too long.
    """
    if accept is None or accept.strip() in ("", "*/*"):  # as most clients send it
        return offers[0]
    if len(accept) > _MAX_ACCEPT_CHARACTERS:
        raise NotAcceptable(
            f"the Accept header has {len(accept)} characters, at most {_MAX_ACCEPT_CHARACTERS} are accepted; shorten "
            f"it, or choose with ?{parameter}=",
            extra={"value": len(accept), "limit": _MAX_ACCEPT_CHARACTERS, "unit": "characters"},
        )
    ranges = dict(_ranges(accept))
    quality, best = max(
        ((_quality_of(offer[0], ranges), offer) for offer in offers), key=lambda candidate: candidate[0]
    )
    if quality == 0:
        offered = [media_type for media_type, _ in offers]
        raise NotAcceptable(
            f"the Accept header {accept!r} allows none of {', '.join(offered)}; change it, or choose with "
            f"?{parameter}=",
            extra={"value": accept, "accepted": offered},
        )
    return best


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for entry in accept.split(","):
        media_range, *parameters = (part.strip() for part in entry.split(";"))
        qualities = [part for part in parameters if part.lower().startswith("q=")]
        matches = [_QUALITY.fullmatch(part) for part in qualities]
        if _RANGE.fullmatch(media_range) and all(matches):
            yield media_range.lower(), float(matches[0][1]) if matches and matches[0] else 1.0


def _quality_of(media_type: str, ranges: dict[str, float]) -> float:
    kind = media_type.partition("/")[0]
    return next((ranges[name] for name in (media_type, f"{kind}/*", "*/*") if name in ranges), 0.0)
