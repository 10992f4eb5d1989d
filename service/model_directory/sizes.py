"""Image sizes as the command lines of the project write them. Standard library only."""

from __future__ import annotations

import argparse
import re

Size = tuple[int, int]
SIZE_LIMITS = (32, 8192)


def parse_size(text: str) -> Size:
    """``HEIGHTxWIDTH`` in pixels.

    Raises:
        ValueError: Another form, or a side out of ``SIZE_LIMITS``.
    """
    least, most = SIZE_LIMITS
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text.strip().lower())
    if match is None or not all(least <= int(side) <= most for side in match.groups()):
        raise ValueError(f"size is {text!r}, expected HEIGHTxWIDTH with sides within {least}..{most}, e.g. 576x768")
    return int(match[1]), int(match[2])


def size_argument(text: str) -> Size:
    """``parse_size`` as the type of an option of ``argparse``, which then reports the reason."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def format_size(size: Size) -> str:
    """``(576, 768)`` as ``576x768``."""
    return f"{size[0]}x{size[1]}"
