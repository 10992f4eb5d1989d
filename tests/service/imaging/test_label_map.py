"""Label maps against two references: exact integer arithmetic, and resize + argmax in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.imaging import label_map as label_map_module
from service.imaging import native
from service.imaging.label_map import in_float32, label_map
from service.imaging.native import MAX_CLASSES

FUNCFLAG_PYTHONAPI = 4  # ctypes: the call keeps the GIL

cell_sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))
pixel_sizes = st.tuples(st.integers(1, 70), st.integers(1, 70))
seeds = st.integers(0, 2**32 - 1)


def integer_weights(cells: int, pixels: int) -> NDArray[np.int64]:
    """(pixels, cells) weights of a bilinear resize times ``2 * pixels``; src = (dst + 0.5) * cells / pixels - 0.5."""
    position = np.maximum((2 * np.arange(pixels) + 1) * cells - pixels, 0)
    cell, far = np.divmod(position, 2 * pixels)
    weights = np.zeros((pixels, cells), np.int64)
    np.add.at(weights, (np.arange(pixels), cell), 2 * pixels - far)
    np.add.at(weights, (np.arange(pixels), np.minimum(cell + 1, cells - 1)), far)
    return weights


def exact_labels(logits: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Resize and argmax without any rounding; the lower class wins ties."""
    rows, columns = integer_weights(logits.shape[1], size[0]), integer_weights(logits.shape[2], size[1])
    return (rows @ logits @ columns.T).argmax(0)


def resized(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    """(K, H, W) float64, a bilinear resize written out in numpy."""
    rows = integer_weights(logits.shape[1], size[0]) / (2 * size[0])
    columns = integer_weights(logits.shape[2], size[1]) / (2 * size[1])
    return rows @ logits.astype(np.float64) @ columns.T


def assert_labels_of(values: NDArray[np.float64], labels: NDArray[np.uint8]) -> None:
    """The labels are those of (K, H, W) values, but where the chosen value is the best within rounding."""
    chosen = np.take_along_axis(values, labels[None].astype(np.int64), axis=0)[0]
    best = values.max(0)
    wrong = (labels != values.argmax(0)) & (best - chosen > 1e-14 * np.abs(values).max())
    assert np.count_nonzero(wrong) == 0


def smooth_logits(num_classes: int, h: int, w: int, cells_per_knot: int, seed: int = 0) -> NDArray[np.float32]:
    """Fields with large regions of one class."""
    knots = np.random.default_rng(seed).normal(size=(1, num_classes, h // cells_per_knot + 2, w // cells_per_knot + 2))
    field = torch.nn.functional.interpolate(torch.from_numpy(knots), (h, w), mode="bicubic", align_corners=True)
    return field[0].numpy().astype(np.float32)


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 40), cell_sizes, pixel_sizes, st.integers(1, 1000), seeds)
def test_integer_logits_get_the_exact_label_even_at_ties(
    num_classes: int, cells: tuple[int, int], size: tuple[int, int], largest: int, seed: int
) -> None:
    logits = np.random.default_rng(seed).integers(-largest, largest, (num_classes, *cells), endpoint=True)
    np.testing.assert_array_equal(label_map(logits.astype(np.float32), size), exact_labels(logits, size))


@settings(deadline=None, max_examples=150)
@given(st.integers(1, MAX_CLASSES), cell_sizes, pixel_sizes, st.integers(-30, 30), seeds)
def test_labels_equal_those_of_a_float64_resize(
    num_classes: int, cells: tuple[int, int], size: tuple[int, int], exponent: int, seed: int
) -> None:
    logits = np.ldexp(np.random.default_rng(seed).normal(size=(num_classes, *cells)), exponent).astype(np.float32)
    assert_labels_of(resized(logits, size), label_map(logits, size))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 30), st.integers(1, 8), st.tuples(st.integers(20, 60), st.integers(20, 90)), st.floats(0.3, 6), seeds
)
def test_smooth_fields_get_the_labels_of_torch(
    num_classes: int, cells_per_knot: int, cells: tuple[int, int], scale: float, seed: int
) -> None:
    logits = smooth_logits(num_classes, *cells, cells_per_knot, seed)
    size = (round(cells[0] * scale), round(cells[1] * scale))
    values = torch.nn.functional.interpolate(torch.from_numpy(logits)[None].double(), size, mode="bilinear")[0].numpy()
    assert_labels_of(values, label_map(logits, size))


@pytest.mark.parametrize(
    ("num_classes", "cells", "size"),
    [
        (11, (90, 120), (360, 480)),
        (11, (90, 120), (2000, 3000)),
        (3, (512, 768), (100, 33)),
        (MAX_CLASSES, (33, 130), (129, 517)),
        (1, (5, 7), (20, 28)),
        (5, (1, 1), (9, 4)),
        (5, (6, 8), (1, 1)),
        (5, (1, 300), (40, 5)),
        (7, (64, 64), (64, 64)),
    ],
)
def test_labels_equal_those_of_torch_in_float64(
    num_classes: int, cells: tuple[int, int], size: tuple[int, int]
) -> None:
    logits = smooth_logits(num_classes, *cells, cells_per_knot=6)
    values = torch.nn.functional.interpolate(torch.from_numpy(logits)[None].double(), size, mode="bilinear")[0]
    labels = label_map(logits, size)
    assert labels.dtype == np.uint8
    assert labels.shape == size
    np.testing.assert_array_equal(labels, values.argmax(0).numpy())


def test_every_class_id_can_win() -> None:
    logits = np.eye(MAX_CLASSES, dtype=np.float32).reshape(MAX_CLASSES, 16, 16)
    np.testing.assert_array_equal(label_map(logits, (16, 16)).ravel(), np.arange(MAX_CLASSES))


def test_equal_classes_go_to_the_lowest() -> None:
    logits = np.repeat(np.random.default_rng(0).normal(size=(1, 9, 9)).astype(np.float32), 20, axis=0)
    logits[:3] -= 1
    np.testing.assert_array_equal(label_map(logits, (31, 40)), np.full((31, 40), 3))


def test_midpoint_of_two_classes_is_an_exact_tie() -> None:
    logits = np.array([[[0.1, 0.7]], [[0.7, 0.1]]], np.float32)
    np.testing.assert_array_equal(label_map(logits, (1, 7)), [[1, 1, 1, 0, 0, 0, 0]])


def test_a_class_that_wins_no_cell_wins_between_cells() -> None:
    logits = np.array([[[4.0, 0.0]], [[0.0, 4.0]], [[3.0, 3.0]]], np.float32)
    np.testing.assert_array_equal(label_map(logits, (1, 8)), [[0, 0, 0, 2, 2, 1, 1, 1]])


@pytest.mark.parametrize("size", [(45, 60), (7, 5)])
def test_views_are_labelled_like_their_copies(size: tuple[int, int]) -> None:
    channels_last = np.random.default_rng(1).normal(size=(20, 30, 6)).astype(np.float32)
    view = channels_last.transpose(2, 0, 1)[::-1, ::2, 1::3]
    np.testing.assert_array_equal(label_map(view, size), label_map(view.copy(), size))


def test_the_library_is_handed_aligned_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(2).normal(size=(5, 9, 11)).astype(np.float32)
    odd = np.frombuffer(b"\0" + logits.tobytes(), np.float32, offset=1).reshape(logits.shape)
    addresses = []

    class Recorder:
        def label_map(self, address: int, *arguments: int) -> int:
            addresses.append(address)
            return int(native.library.label_map(address, *arguments))

    monkeypatch.setattr(label_map_module, "library", Recorder())
    np.testing.assert_array_equal(label_map(odd, (27, 40)), label_map(logits, (27, 40)))
    assert not odd.flags.aligned
    assert [address % 4 for address in addresses] == [0, 0]


def test_input_is_left_as_it_was() -> None:
    logits = smooth_logits(4, 12, 12, 3)
    before = logits.copy()
    label_map(logits, (48, 48))
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [(0, 0, 0), (4, 39, 59), (2, 20, 30)])
def test_values_that_are_not_finite_are_refused(value: float, position: tuple[int, int, int]) -> None:
    logits = np.zeros((5, 40, 60), np.float32)
    logits[position] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        label_map(logits, (160, 240))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, MAX_CLASSES), cell_sizes, pixel_sizes, seeds)
def test_half_precision_gets_the_labels_of_its_values_in_float32(
    num_classes: int, cells: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    halves = np.random.default_rng(seed).normal(size=(num_classes, *cells)).astype(np.float16)
    np.testing.assert_array_equal(label_map(halves, size), label_map(halves.astype(np.float32), size))


def test_every_half_keeps_its_value_in_float32() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, 256, 256)
    expected = halves.astype(np.float32)
    expected[~np.isfinite(expected)] = np.inf
    values = in_float32(halves)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))


def test_a_view_of_halves_is_read_in_its_order() -> None:
    view = np.random.default_rng(3).normal(size=(8, 6, 10)).astype(np.float16)[::-1, :, ::3]
    np.testing.assert_array_equal(in_float32(view), view.astype(np.float32))
    np.testing.assert_array_equal(label_map(view, (17, 9)), label_map(view.copy(), (17, 9)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f2"])
def test_logits_of_other_types_stay_as_they_are(dtype: str) -> None:
    logits: Any = np.zeros((2, 3, 3), dtype)
    assert in_float32(logits) is logits


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_halves_that_are_not_finite_are_refused(value: float) -> None:
    logits = np.zeros((5, 40, 60), np.float16)
    logits[4, 39, 59] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        label_map(logits, (160, 240))


def test_the_largest_floats_do_not_overflow() -> None:
    largest = np.finfo(np.float32).max
    logits = np.array([[[largest, -largest]], [[-largest, largest]]], np.float32)
    np.testing.assert_array_equal(label_map(logits, (1, 4)), [[0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("shape", "dtype", "size", "message"),
    [
        ((3, 4, 4), np.float64, (8, 8), "logits are float64, expected float32 or float16"),
        ((3, 4, 4), np.int16, (8, 8), "logits are int16, expected float32 or float16"),
        ((3, 4, 4), ">f4", (8, 8), "logits are >f4, expected float32 or float16"),
        ((3, 4, 4), ">f2", (8, 8), "logits are >f2, expected float32 or float16"),
        ((4, 4), np.float32, (8, 8), r"shape \(4, 4\), expected \(K, h, w\)"),
        ((1, 3, 4, 4), np.float32, (8, 8), r"shape \(1, 3, 4, 4\), expected \(K, h, w\)"),
        ((0, 4, 4), np.float32, (8, 8), r"shape \(0, 4, 4\), expected"),
        ((3, 0, 4), np.float32, (8, 8), r"shape \(3, 0, 4\), expected"),
        ((257, 4, 4), np.float32, (8, 8), "257 classes, at most 256"),
        ((3, 4, 4), np.float32, (0, 8), r"size is \(0, 8\)"),
        ((3, 4, 4), np.float32, (8, -1), r"size is \(8, -1\)"),
        ((3, 4, 4), np.float32, (8, 8, 3), r"size is \(8, 8, 3\)"),
    ],
)
def test_wrong_input_is_named(shape: tuple[int, ...], dtype: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_map(np.zeros(shape, dtype), size)
