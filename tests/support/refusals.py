"""Refusals of the scans, by the limit that a file exceeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.errors import PayloadTooLarge
from service.imaging.structure.structure import Structure


def refusal(scan: Callable[[bytes], Structure], data: bytes) -> tuple[object, object, object]:
    """Unit, count and limit of what a scan refuses."""
    with pytest.raises(PayloadTooLarge) as error:
        scan(data)
    extra = error.value.extra
    return extra["unit"], extra["value"], extra["limit"]
