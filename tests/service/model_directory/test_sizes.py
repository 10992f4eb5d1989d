"""Sizes on command lines: height first, within the limits of a graph's input."""

from __future__ import annotations

import argparse

import pytest

from service.model_directory.sizes import format_size, parse_size, size_argument


def test_sizes_are_height_by_width() -> None:
    assert parse_size("540x720") == (540, 720)
    assert parse_size(" 540X720 ") == (540, 720)
    assert format_size((540, 720)) == "540x720"


@pytest.mark.parametrize("text", ["", "540", "540x", "540x720x3", "-540x720", "31x720", "540x8193", "540,720"])
def test_other_forms_are_told_with_the_limits(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected HEIGHTxWIDTH with sides within 32\.\.8192"):
        parse_size(text)
    with pytest.raises(argparse.ArgumentTypeError, match="expected HEIGHTxWIDTH"):
        size_argument(text)
