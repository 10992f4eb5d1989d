"""Slots in shared memory: nothing overlaps, and each side reads what the other has written."""

from __future__ import annotations

import os

import numpy as np
import pytest

from service.model_directory.manifest import GraphInfo
from service.workers.slots import Layout, Region, slots_for

LAYOUT = Layout(slots=3, input_size=(5, 7), output_shape=(2, 3, 4), output_dtype=np.dtype(np.float32))
PAGE = 4096


def regions(layout: Layout = LAYOUT) -> tuple[Region, Region]:
    """The same memory, as the worker and as the engine process map it."""
    descriptor = Region.allocate(layout)
    try:
        return Region(layout, descriptor), Region(layout, descriptor)
    finally:
        os.close(descriptor)


def test_images_and_outputs_begin_on_pages() -> None:
    assert (LAYOUT.image_bytes, LAYOUT.output_bytes, LAYOUT.images_at) == (PAGE, PAGE, PAGE)
    assert LAYOUT.total_bytes == 7 * PAGE
    wide = Layout(slots=4033, input_size=(64, 64), output_shape=(65, 64), output_dtype=np.dtype(np.uint8))
    assert (wide.image_bytes, wide.output_bytes) == (3 * PAGE, 2 * PAGE)
    assert wide.images_at == 2 * PAGE  # 64 bytes of numbers and one for each slot
    assert wide.total_bytes == 2 * PAGE + 4033 * 5 * PAGE


def test_a_layout_follows_from_the_graph() -> None:
    graph = GraphInfo("model.onnx", "0" * 64, (32, 64))
    assert Layout.of(graph, 3, 9) == Layout(9, (32, 64), graph.output_shape(1, 3)[1:], np.dtype(np.float32))


def test_no_slot_touches_another_or_the_header() -> None:
    here, there = regions()
    here.note_queue(depth=1, backlog=2, is_waiting=True)
    here.note_times(seconds_per_image=0.5, free_at=7.25, first_s=1.5, full_s=2.5)
    here.expected = 3
    for slot in range(3):
        here.image(slot)[:] = slot + 1
        here.output(slot)[:] = 10.5 + slot
    for slot in range(3):
        assert there.image(slot).shape == (5, 7, 3)
        assert (there.image(slot) == slot + 1).all()
        assert there.output(slot).shape == (2, 3, 4)
        assert there.output(slot).dtype == np.float32
        assert (there.output(slot) == 10.5 + slot).all()
        assert not there.has_started(slot)
    assert (there.depth, there.backlog, there.is_waiting, there.expected) == (1, 2, True, 3)
    assert (there.seconds_per_image, there.free_at, there.first_s, there.full_s) == (0.5, 7.25, 1.5, 2.5)
    here.note_queue(depth=4, backlog=5, is_waiting=False)
    assert (there.depth, there.backlog, there.is_waiting, there.expected) == (4, 5, False, 3)


def test_each_slot_has_started_for_itself() -> None:
    here, there = regions()
    here.mark_started(1)
    here.mark_started(2)
    there.mark_started(2, started=False)
    assert [there.has_started(slot) for slot in range(3)] == [False, True, False]
    assert here.expected == 0


def test_a_slot_is_pinned_at_its_first_use() -> None:
    pinned: list[tuple[tuple[int, ...], np.dtype[np.generic]]] = []
    descriptor = Region.allocate(LAYOUT)
    region = Region(LAYOUT, descriptor, lambda rows: pinned.append((rows.shape, rows.dtype)))
    os.close(descriptor)
    for slot in (2, 2, 0, 2):
        region.pin(slot)
    assert pinned == [((5, 7, 3), np.dtype(np.uint8)), ((2, 3, 4), np.dtype(np.float32))] * 2
    regions()[0].pin(0)  # without a device there is nothing to do


def test_memory_of_another_size_is_refused() -> None:
    descriptor = Region.allocate(LAYOUT)
    other = Layout(2, (5, 7), (2, 3, 4), np.dtype(np.float32))
    with pytest.raises(ValueError, match=f"has {7 * PAGE} bytes and seals 7, expected {5 * PAGE} and 7"):
        Region(other, descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("requests", "workers", "batch", "slots"),
    [(64, 1, 4, 72), (64, 2, 4, 72), (64, 4, 4, 40), (65, 4, 4, 41), (1, 2, 1, 3), (10, 64, 2, 5)],
)
def test_a_worker_has_twice_its_share_of_slots(requests: int, workers: int, batch: int, slots: int) -> None:
    assert slots_for(requests, workers, batch) == slots
