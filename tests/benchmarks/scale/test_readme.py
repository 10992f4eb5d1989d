"""The page of the fleet's arithmetic holds the tables of the files beside it."""

from __future__ import annotations

import pytest

from benchmarks.scale.readme import README, filled, parts
from benchmarks.scale.subject import SUBJECTS
from benchmarks.scale.validate import read_validation


def test_page_holds_the_tables_of_the_measurements_that_are_kept() -> None:
    text, tables = README.read_text(encoding="utf-8"), parts()
    assert filled(text, tables) == text, "python -m benchmarks.scale.readme"
    assert all(table in text for table in tables.values())


def test_marks_are_filled_and_stay() -> None:
    text = "a\n<!-- one -->\nold\n<!-- end -->\nb\n"
    once = filled(text, {"one": "| new |"})
    assert once == "a\n<!-- one -->\n\n| new |\n\n<!-- end -->\nb\n"
    assert filled(once, {"one": "| new |"}) == once


def test_unknown_mark_is_an_error() -> None:
    with pytest.raises(KeyError, match="two"):
        filled("<!-- two -->\n<!-- end -->\n", {"one": ""})


def test_validation_that_is_kept_is_near_at_every_load_where_the_machine_has_no_part_in_it() -> None:
    """``fixed`` sleeps; ``bundled`` has the machine's slow seconds too, which the README says."""
    validation = read_validation()
    assert list(validation) == list(SUBJECTS)
    assert all([row.load for row in rows] == [0.3, 0.5, 0.7, 0.85] for _, rows in validation.values())
    assert all(row.is_near for row in validation["fixed"][1])
