"""The figures of all arrangements beside the goals.

Goals in milliseconds hold for one machine at rest; those relative to the first arrangement, measured by turns, for any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.feed.measure import Load, Memory


@dataclass(frozen=True, slots=True)
class Figures:
    """Measurements of one arrangement.

    Attributes:
        crowd: 32 clients, images of 480x360.
        large: 8 clients, images of 960x720.
        alone: 1 client, images of 480x360.
        full_batches: 32 clients and an engine so slow that its batches are full, at an input of 480x360.
        memory: After these.
    """

    crowd: Load
    large: Load
    alone: Load
    full_batches: Load
    memory: Memory


Value = Callable[[Figures, Figures], float]

# Title, goal, the value by the figures and those of the first arrangement, digits.
_ROWS: tuple[tuple[str, str, Value, int], ...] = (
    ("engine process: CPU ms per image, full batches", "<= 0.2", lambda f, _: f.full_batches.engine_cpu_ms, 2),
    ("  images of a batch there", "8", lambda f, _: f.full_batches.batch, 1),
    ("request: CPU ms of all processes, 480x360", "<= 2.5", lambda f, _: f.crowd.request_cpu_ms, 2),
    (
        "  of the first arrangement's",
        "<= 0.66",
        lambda f, first: f.crowd.request_cpu_ms / first.crowd.request_cpu_ms,
        2,
    ),
    ("request: CPU ms of all processes, 960x720", "<= 5.5", lambda f, _: f.large.request_cpu_ms, 2),
    ("event loop: CPU ms per request", "<= 0.7", lambda f, _: f.crowd.loop_cpu_ms, 2),
    ("  of the first arrangement's", "<= 0.47", lambda f, first: f.crowd.loop_cpu_ms / first.crowd.loop_cpu_ms, 2),
    ("images/s, 32 clients", "", lambda f, _: f.crowd.images_per_s, 0),
    ("  of the first arrangement's", ">= 1.3", lambda f, first: f.crowd.images_per_s / first.crowd.images_per_s, 2),
    ("p99 ms, 32 clients", "", lambda f, _: f.crowd.p99_ms, 1),
    ("  of the first arrangement's", "<= 0.8", lambda f, first: f.crowd.p99_ms / first.crowd.p99_ms, 2),
    ("p50 ms, 1 client", "", lambda f, _: f.alone.p50_ms, 2),
    ("  more than the first arrangement", "<= 0.3", lambda f, first: f.alone.p50_ms - first.alone.p50_ms, 2),
    ("memory MiB, what is shared counts once", "<= 300", lambda f, _: f.memory.pss_mib, 0),
    ("memory MiB, sum of all processes", "", lambda f, _: f.memory.rss_mib, 0),
    ("wrong answers", "0", lambda f, _: f.crowd.wrong + f.large.wrong + f.alone.wrong + f.full_batches.wrong, 0),
)


def report(figures: Mapping[str, Figures]) -> str:
    """A table in Markdown with a column for each arrangement; the first is what the others are compared with."""
    first = next(iter(figures.values()))
    lines = [_line(["", "goal", *figures]), _line(["---", "---", *["---:"] * len(figures)])]
    for title, goal, value, digits in _ROWS:
        lines.append(_line([title, goal, *(f"{value(each, first):.{digits}f}" for each in figures.values())]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
