"""Entity tags of answers: the same image, parameters, model and runtime give the same tag."""

from __future__ import annotations

import hashlib
import re

_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def answer_tag(data: bytes, *identity: str) -> str:
    """32 hexadecimal digits for an image file and all else that decides on its answer."""
    digest = hashlib.sha256(hashlib.sha256(data).digest())
    for part in identity:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()[:32]


def format_tag(tag: str, *, weak: bool) -> str:
    """Value of the ``ETag`` header; a weak one is for answers that are equal in meaning, not byte for byte."""
    return f'W/"{tag}"' if weak else f'"{tag}"'


def parse_tags(if_none_match: str | None) -> frozenset[str]:
    """The tags of an ``If-None-Match`` header, without their marks; ``*`` names none, as no answer is kept for it."""
    return frozenset(_TAG.findall(if_none_match or ""))
