"""The order of versions: 1.10.0 is newer than 1.9.0, and both are newer than anything that is not a number."""

from __future__ import annotations

import re
from typing import Any

_NUMBERS = re.compile(r"v?([0-9]+(?:\.[0-9]+)*)(?:-([^+]*))?(?:\+.*)?", re.ASCII)


def version_order(version: str) -> tuple[Any, ...]:
    """A key to sort versions by, oldest first.

    Numbers go by Semantic Versioning (a pre-release such as 1.0.0-rc.1 comes before its release), with as many parts as
    they have. Other texts come before all of them, and count the numbers in them as numbers: r9 before r10.
    """
    numbers = _NUMBERS.fullmatch(version)
    if numbers is None:
        return (0, _parts(re.findall(r"[0-9]+|[^0-9]+", version)), version)
    release = _without_zeros([_number(part) for part in numbers[1].split(".")])
    if numbers[2] is None:
        return (1, release, True, [], version)
    return (1, release, False, _parts(numbers[2].split(".")), version)


def _without_zeros(release: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """1.0 is 1.0.0."""
    while release and release[-1] == _number("0"):
        release.pop()
    return release


def _parts(texts: list[str]) -> list[tuple[Any, ...]]:
    """Numbers before words, numbers by value."""
    return [(0, _number(text)) if re.fullmatch(r"[0-9]+", text) else (1, text) for text in texts]


def _number(digits: str) -> tuple[int, str]:
    """Orders digits by their value, however many they are."""
    significant = digits.lstrip("0")
    return len(significant), significant
