"""The headers ``ETag`` and ``If-None-Match`` around the tags of answers."""

from __future__ import annotations

import re

TAGS_HEADER = "If-None-Match"
_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def format_tag(tag: str, *, weak: bool) -> str:
    """Value of the ``ETag`` header; a weak one is for answers that are equal in meaning, not byte for byte."""
    return f'W/"{tag}"' if weak else f'"{tag}"'


def parse_tags(if_none_match: str) -> frozenset[str]:
    """The tags of an ``If-None-Match`` header, without their marks; ``*`` names none, as no answer is kept for it."""
    return frozenset(_TAG.findall(if_none_match))
