"""Simpler polygons: no gap between neighbours, no border farther away than allowed, and no work without bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.answers import simplify as module
from service.answers.contours import Polygon, trace
from service.answers.simplify import simplify

Labels = NDArray[np.uint8]

maps = npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 2))


def blobs(shape: tuple[int, int] = (90, 120), seed: int = 3) -> Labels:
    """Round shapes of three classes."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9), np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize(shape[::-1], Image.Resampling.BICUBIC))
    return np.digitize(smooth, (95, 160)).astype(np.uint8)


def turns(polygons: dict[int, list[Polygon]], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Sum of all rings' winding numbers around a point of each pixel that lies on no line, (H, W) int64."""
    y, x = np.mgrid[: shape[0], : shape[1]] + np.array([np.sqrt(0.2), np.sqrt(0.3)])[:, None, None]
    found = np.zeros(shape, np.int64)
    for ring in (ring for of_class in polygons.values() for polygon in of_class for ring in polygon):
        for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
            if y0 != y1:
                crosses = (min(y0, y1) < y) & (y < max(y0, y1)) & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) > x)
                found += crosses * (1 if y1 > y0 else -1)
    return found


def corners(polygons: dict[int, list[Polygon]]) -> int:
    return sum(len(ring) for of_class in polygons.values() for polygon in of_class for ring in polygon)


def distance(point: tuple[int, int], start: NDArray[np.int64], end: NDArray[np.int64]) -> float:
    chord = end - start
    share = np.clip(np.dot(np.array(point) - start, chord) / max(np.dot(chord, chord), 1), 0, 1)
    return float(np.hypot(*(np.array(point) - start - share * chord)))


def width(ring: NDArray[np.int32]) -> float:
    """Distance of the nearest two parallel lines between which all points lie; one passes two of them."""
    chords = (ring[:, None] - ring).reshape(-1, 2)
    chords = chords[chords.any(1)]
    normals = chords[:, ::-1] * (1, -1) / np.hypot(*chords.T)[:, None]
    return float(np.ptp(ring @ normals.T, axis=0).min())


@settings(deadline=None, max_examples=60)
@given(maps, st.floats(0.5, 4))
def test_neighbours_keep_their_border_in_common(labels: Labels, tolerance: float) -> None:
    assert (turns(simplify(trace(labels), labels, tolerance), labels.shape) == 1).all()


@settings(deadline=None, max_examples=40)
@given(maps, st.floats(0.1, 4))
def test_every_corner_stays_within_the_tolerance(labels: Labels, tolerance: float) -> None:
    before = trace(labels)
    after = simplify(before, labels, tolerance)
    kept = [ring for of_class in after.values() for polygon in of_class for ring in polygon]
    for class_id, of_class in before.items():
        for ring in (ring for polygon in of_class for ring in polygon):
            if not set(map(tuple, ring.tolist())) & {tuple(p) for other in kept for p in other.tolist()}:
                assert width(ring) <= 2 * tolerance + 1e-9  # the ring is gone
                continue
            for point in ring.tolist():
                near = min(
                    distance(point, start, end)
                    for other in kept
                    for start, end in zip(other, np.roll(other, -1, axis=0), strict=True)
                )
                assert near <= tolerance + 1e-9 or class_id not in after


def test_a_slope_of_steps_becomes_a_line() -> None:
    labels = np.tri(40, dtype=np.uint8)
    before = trace(labels)
    after = simplify(before, labels, 1)
    assert corners(before) == 162
    assert corners(after) <= 8
    assert {tuple(point) for point in after[1][0][0].tolist()} >= {(0, 40), (40, 40)}


def test_a_tolerance_of_0_changes_nothing() -> None:
    polygons = trace(blobs())
    assert simplify(polygons, blobs(), 0) is polygons


def test_a_pixel_in_another_class_is_gone_on_both_sides() -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[4, 4] = 1
    simpler = simplify(trace(labels), labels, 1)
    assert list(simpler) == [0]
    ((outer,),) = simpler[0]
    assert sorted(map(tuple, outer.tolist())) == [(0, 0), (0, 9), (9, 0), (9, 9)]


def test_four_fifths_of_the_corners_go_and_the_map_stays_within_a_pixel() -> None:
    labels = blobs()
    before, after = trace(labels), simplify(trace(labels), labels, 1)
    assert corners(after) < corners(before) / 4
    filled = Image.new("L", labels.shape[::-1], 255)
    for class_id, polygons in after.items():
        mask = Image.new("1", filled.size)
        draw = ImageDraw.Draw(mask)
        for outer, *holes in polygons:
            draw.polygon(list(map(tuple, outer.tolist())), fill=1)
            for hole in holes:
                draw.polygon(list(map(tuple, hole.tolist())), fill=0)
        filled.paste(class_id, mask=mask)
    near = np.stack([np.roll(labels, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    assert (np.asarray(filled) == near).any(0)[2:-2, 2:-2].mean() > 0.999


@pytest.mark.parametrize("shape", [(700, 9), (256, 5), (257, 5)])
def test_maps_of_several_strips_have_common_borders(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 3, shape, np.uint8)
    assert (turns(simplify(trace(labels), labels, 1.5), shape) == 1).all()


def test_a_comb_whose_chords_cut_off_one_tooth_at_a_time_is_halved_in_the_middle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = np.zeros((1200, 300), np.uint8)
    labels[np.arange(300) < (np.arange(1200) // 5 + 1)[:, None]] = 1
    labels[::2] = 0
    levels = list[int]()
    measure = module.chord_distances

    def count(points: NDArray[np.int64], *chord: NDArray[np.int64]) -> NDArray[np.float64]:
        levels.append(len(points))
        return measure(points, *chord)

    monkeypatch.setattr(module, "chord_distances", count)
    assert corners(simplify(trace(labels), labels, 0.1)) == corners(trace(labels))
    assert len(levels) <= module.MAX_LEVELS + 12
