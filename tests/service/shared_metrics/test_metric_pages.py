"""Pages as a crashed process may leave them."""

from __future__ import annotations

import logging
import math
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.shared_metrics.families import SharedCounter
from service.shared_metrics.metric_pages import MetricPages

PAGE_BYTES = 4096
# Offsets in a page: the header has 16 bytes, the values a quarter of the page.
VALUES, LOG = 16, 16 + PAGE_BYTES // 4


def pages_of(memory: bytearray) -> MetricPages:
    return MetricPages(memoryview(memory), len(memory) // PAGE_BYTES)


def counter(pages: MetricPages) -> SharedCounter:
    return SharedCounter("events", "Events.", ["kind"], pages)


def values(pages: MetricPages) -> list[float]:
    return [float(line.split()[-1]) for line in counter(pages).text().splitlines()[2:]]


def counted(*kinds: str) -> bytearray:
    """Two pages; the first counts an event of each kind."""
    memory = bytearray(2 * PAGE_BYTES)
    events = counter(pages_of(memory))
    for kind in kinds:
        events.labels(kind).inc()
    return memory


@given(st.integers(0), st.integers(0, 8))
def test_random_page_neither_breaks_nor_spoils_the_sums(seed: int, entries: int) -> None:
    memory = bytearray(random.Random(seed).randbytes(PAGE_BYTES)) + bytes(PAGE_BYTES)
    memory[:8] = struct.pack("Q", entries)
    pages = pages_of(memory)
    pages.open(1)
    counter(pages).labels("a").inc()
    assert values(pages) == [1]


@given(st.integers(0, PAGE_BYTES - 1), st.integers(0, 255))
def test_any_byte_of_a_page_may_be_wrong(position: int, byte: int) -> None:
    memory = counted("a", "b", "c")
    memory[position] = byte
    assert all(0 <= value < math.inf for value in values(pages_of(memory)))
    replaced = pages_of(memory)
    replaced.open(0)
    counter(replaced).labels("new").inc()
    assert values(replaced)[-1] == values(pages_of(memory))[-1] == 1


def test_entry_that_is_not_complete_is_left_out_and_written_over(caplog: pytest.LogCaptureFixture) -> None:
    memory = counted("a", "b")
    memory[:8] = struct.pack("Q", 1)
    pages = pages_of(memory)
    assert values(pages) == [1]
    pages.open(0)
    counter(pages).labels("c").inc()
    assert values(pages) == [1, 1]
    assert not caplog.records


def test_next_process_drops_what_it_cannot_read_and_the_others_follow(caplog: pytest.LogCaptureFixture) -> None:
    memory = counted("a", "b")
    reader = pages_of(memory)
    assert values(reader) == [1, 1]
    memory[LOG + 8] ^= 0xFF
    replaced = pages_of(memory)
    with caplog.at_level(logging.ERROR):
        replaced.open(0)
    assert "2 of their series start at 0" in caplog.text
    for _ in range(3):
        counter(replaced).labels("c").inc()
    assert values(replaced) == values(reader) == [3]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_values_that_no_count_can_have_count_nothing(wrong: float) -> None:
    memory = counted("a")
    struct.pack_into("d", memory, VALUES, wrong)
    pages = pages_of(memory)
    assert values(pages) == [0]
    pages.open(0)
    counter(pages).labels("a").inc()
    assert values(pages) == [1]


def test_full_page_counts_on_for_its_own_process(caplog: pytest.LogCaptureFixture) -> None:
    memory = bytearray(2 * PAGE_BYTES)
    pages, other = pages_of(memory), pages_of(memory)
    events = counter(pages)
    with caplog.at_level(logging.ERROR):
        for number in range(200):
            events.labels(f"kind {number}").inc()
            events.labels(f"kind {number}").inc()
    assert values(pages) == [2] * 200
    assert values(other) == [2] * len(values(other))
    assert 50 < len(values(other)) < 200
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_label_too_long_for_a_page_counts_for_its_own_process(caplog: pytest.LogCaptureFixture) -> None:
    pages = MetricPages.create(1)
    counter(pages).labels("a" * 70_000).inc()
    assert values(pages) == [1]
    assert "full" in caplog.text
