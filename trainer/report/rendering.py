"""Pages from the templates beside this file: one HTML file each, with its style sheet inside."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, **content: Any) -> str:
    """A page of a template; texts are escaped."""
    return _environment().get_template(template).render(content)


def percent(share: float) -> str:
    """A share 0..1 times 100 with two digits; a dash for NaN."""
    return "–" if math.isnan(share) else f"{100 * share:.2f}"  # noqa: RUF001


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"percent": percent, "css": lambda color: f"#{bytes(color).hex()}"}
    environment.tests["nan"] = math.isnan
    return environment
