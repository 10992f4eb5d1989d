from __future__ import annotations

import random

from service.models.versions import version_order

OLDEST_FIRST = [
    "",
    "final",
    "r9",
    "r10",
    "0.9",
    "1.0.0-1",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-beta",
    "1.0.0-rc.2",
    "1.0.0-rc.10",
    "1.0.0",
    "1.0.1",
    "1.9.0",
    "1.10.0",
    "v2",
    "10.0.0",
    "2024-05-01",
    "2025-01-01",
    "9" * 5000,
]


def test_versions_are_ordered_by_meaning() -> None:
    shuffled = random.Random(0).sample(OLDEST_FIRST, len(OLDEST_FIRST))
    assert sorted(shuffled, key=version_order) == OLDEST_FIRST


def test_equal_numbers_in_other_words_are_neighbours_in_a_fixed_order() -> None:
    expected = ["0.9", "1", "1.0.0", "1.0.0+linux", "v1.0", "1.0.1-rc.1"]
    assert sorted(["1.0.1-rc.1", "v1.0", "1.0.0+linux", "1.0.0", "0.9", "1"], key=version_order) == expected
