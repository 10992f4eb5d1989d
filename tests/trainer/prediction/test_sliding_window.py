"""Sliding windows: where they lie, that they cover and average exactly, and how many are held at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.prediction.sliding_window import slide_logits, window_starts


def channels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A network at stride 1 whose logits are linear in its pixels: (B, h, w, 3) to (B, 3, h, w)."""
    return 2 * images.transpose(0, 3, 1, 2).astype(np.float32) - 7


@pytest.mark.parametrize(
    ("length", "starts"),
    [(640, [0]), (641, [0, 1]), (1248, [0, 608]), (1249, [0, 608, 609]), (1000, [0, 360]), (1856, [0, 608, 1216])],
)
def test_windows_lie_a_stride_apart_and_end_with_the_image(length: int, starts: list[int]) -> None:
    assert window_starts(length, 640, 608) == starts


@pytest.mark.parametrize("size", [(37, 53), (16, 16), (9, 40), (40, 9), (5, 7)])
@pytest.mark.parametrize("stride", [(11, 13), (16, 16), (3, 1)])
def test_linear_logits_come_back_whatever_the_overlap(size: tuple[int, int], stride: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    logits = slide_logits(channels, image, (16, 16), stride)
    assert logits.shape == (3, *size)
    assert np.abs(logits - channels(image[None])[0]).max() < 1e-4


def test_overlaps_are_averaged() -> None:
    """Each window gives its own mean; pixels get the mean over the windows that hold them."""

    def means(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.broadcast_to(windows.mean((1, 2, 3), np.float32)[:, None, None, None], (len(windows), 1, 2, 2))

    image = np.zeros((4, 10, 3), np.uint8)
    image[:, 4:] = 60
    logits = slide_logits(means, image, (8, 4), (8, 3))  # windows at 0, 3 and 6
    assert logits[0, 0].tolist() == [0, 0, 0, 22.5, 45, 45, 52.5, 60, 60, 60]


def test_logits_of_a_window_are_resized_to_its_pixels() -> None:
    image = np.repeat(np.arange(8, dtype=np.uint8)[None, :, None] * 8, 3, 2).repeat(4, 0)
    logits = slide_logits(lambda windows: channels(windows)[:, :, ::4, ::4], image, (4, 4), (4, 4))
    assert logits[0, 0].tolist() == [-7] * 4 + [57] * 4


def test_at_most_max_batch_size_windows_go_at_once_and_all_of_one_size() -> None:
    seen = []

    def infer(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(windows.shape)
        return channels(windows)

    slide_logits(infer, np.zeros((20, 41, 3), np.uint8), (16, 16), (15, 15), max_batch_size=3)
    assert seen == [(3, 16, 16, 3), (3, 16, 16, 3)]


def test_the_memory_is_that_of_the_result() -> None:
    def infer(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.zeros((len(windows), 8, 8, 8), np.float32)

    image = np.zeros((256, 256, 3), np.uint8)
    tracemalloc.start()
    logits = slide_logits(infer, image, (32, 32), (16, 16))  # 225 windows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * logits.nbytes


def test_one_window_over_the_whole_image_gives_the_networks_logits() -> None:
    logits = slide_logits(
        lambda windows: channels(windows)[:, :, ::4, ::4], np.zeros((8, 9, 3), np.uint8), (16, 9), (1, 1)
    )
    assert logits.shape == (3, 2, 3)
