"""Contours give the label map back, pixel for pixel; their rings are closed, turned right, and where they belong."""

from __future__ import annotations

import json
import time
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from service.answers import contours
from service.answers.contours import Polygon, Ring, strips, trace
from service.answers.geojson import encode_contours
from service.errors import InvalidParameter
from service.model_directory.manifest import Manifest

Labels = NDArray[np.uint8]
EMPTY = -1

maps = npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3))


def signed_area(ring: Ring) -> int:
    """Pixels inside a ring by the shoelace formula, negative for a hole."""
    x, y = ring.astype(np.int64).T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2


def winding(polygon: Polygon, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Winding number of a polygon's rings around the centre of each pixel, (H, W) int64."""
    steps = np.zeros((shape[0], shape[1] + 1), np.int64)
    for ring in polygon:
        for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
            assert (x0 == x1) != (y0 == y1)
            if x0 == x1:
                steps[min(y0, y1) : max(y0, y1), x0] += 1 if y1 < y0 else -1
    return steps.cumsum(1)[:, :-1]


def rasterised(polygons: dict[int, list[Polygon]], shape: tuple[int, int]) -> NDArray[np.int64]:
    """The label map that polygons fill; no pixel is in two of them."""
    labels = np.full(shape, EMPTY)
    for class_id, of_class in polygons.items():
        for polygon in of_class:
            turns = winding(polygon, shape)
            assert set(np.unique(turns)) <= {0, 1}
            assert (labels[turns == 1] == EMPTY).all()
            labels[turns == 1] = class_id
    return labels


def regions(labels: Labels) -> set[tuple[int, frozenset[tuple[int, int]]]]:
    """Class and pixels of every set of pixels of one class that are connected by their sides."""
    left = {(y, x) for y in range(labels.shape[0]) for x in range(labels.shape[1])}
    found = set()
    while left:
        edge = [left.pop()]
        class_id, members = int(labels[edge[0]]), set(edge)
        while edge:
            y, x = edge.pop()
            for beside in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if beside in left and labels[beside] == class_id:
                    left.remove(beside)
                    members.add(beside)
                    edge.append(beside)
        found.add((class_id, frozenset(members)))
    return found


@settings(deadline=None, max_examples=100)
@given(maps)
def test_filled_polygons_give_the_label_map_back(labels: Labels) -> None:
    np.testing.assert_array_equal(rasterised(trace(labels), labels.shape), labels)


@settings(deadline=None, max_examples=100)
@given(maps)
def test_every_region_is_one_polygon_with_its_own_holes(labels: Labels) -> None:
    found = set()
    for class_id, polygons in trace(labels).items():
        for polygon in polygons:
            inside = np.argwhere(winding(polygon, labels.shape) == 1).tolist()
            found.add((class_id, frozenset((y, x) for y, x in inside)))
            assert [signed_area(ring) > 0 for ring in polygon] == [True] + [False] * (len(polygon) - 1)
            assert sum(signed_area(ring) for ring in polygon) == len(inside)
    assert found == regions(labels)


@settings(deadline=None)
@given(maps)
def test_rings_have_corners_only(labels: Labels) -> None:
    for polygons in trace(labels).values():
        for ring in (ring for polygon in polygons for ring in polygon):
            steps = np.roll(ring, -1, axis=0) - ring
            assert len(ring) >= 4
            assert ((steps != 0).sum(1) == 1).all()
            assert ((steps[:, 0] == 0) != (np.roll(steps, -1, axis=0)[:, 0] == 0)).all()


@pytest.mark.parametrize("shape", [(700, 9), (9, 700), (1, 30), (30, 1), (8, 7), (16, 7), (17, 7)])
@pytest.mark.parametrize("points", [1, 64, 1000])
def test_maps_of_several_strips_are_exact(shape: tuple[int, int], points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contours, "_STRIP_POINTS", points)
    labels = np.random.default_rng(0).integers(0, 3, shape, np.uint8)
    np.testing.assert_array_equal(rasterised(trace(labels), shape), labels)


@pytest.mark.parametrize(("height", "width"), [(50, 1_000_000), (5000, 10_000), (1_000_000, 50), (3, 4)])
def test_strips_are_all_rows_of_points_and_bounded(height: int, width: int) -> None:
    found = list(strips(height, width))
    assert found[0][0] == 0
    assert found[-1][1] == height + 1
    assert all(bottom == top for (_, bottom), (top, _) in pairwise(found))
    assert all((bottom - top) * (width + 1) <= max(1 << 18, width + 1) for top, bottom in found)


def test_one_class_is_one_rectangle_from_the_upper_left() -> None:
    polygons = trace(np.full((2, 3), 7, np.uint8))
    assert list(polygons) == [7]
    ((ring,),) = polygons[7]
    assert sorted(map(tuple, ring.tolist())) == [(0, 0), (0, 2), (3, 0), (3, 2)]
    assert signed_area(ring) == 6


def test_island_in_a_hole_is_a_polygon_of_its_own() -> None:
    labels = np.zeros((7, 7), np.uint8)
    labels[1:6, 1:6] = 1
    labels[3, 3] = 0
    labels[2:5, 2:5][labels[2:5, 2:5] == 1] = 0
    labels[3, 3] = 1
    polygons = trace(labels)
    areas = {key: [[signed_area(ring) for ring in polygon] for polygon in polygons[key]] for key in polygons}
    assert areas == {0: [[49, -25], [9, -1]], 1: [[25, -9], [1]]}


def test_pixels_that_touch_at_a_corner_are_two_polygons() -> None:
    polygons = trace(np.array([[1, 0], [0, 1]], np.uint8))
    assert [[signed_area(ring) for ring in polygon] for polygon in polygons[1]] == [[1], [1]]
    assert len(polygons[0]) == 2


def test_all_256_ids_are_traced() -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(rasterised(trace(labels), labels.shape), labels)


def test_document_tells_classes_areas_and_closed_rings(manifest: Manifest) -> None:
    labels = np.array([[0, 0, 2], [0, 255, 2]], np.uint8)
    document = json.loads(encode_contours(labels, manifest))
    assert document["type"] == "FeatureCollection"
    assert document["size"] == {"width": 3, "height": 2}
    assert document["model"] == {"name": "brightness", "version": "1.2.3"}
    dark, bright = document["features"]
    assert dark["properties"] == {"id": 0, "name": "dark", "color": [10, 20, 30], "pixels": 3}
    assert bright["properties"] == {"id": 2, "name": "bright", "color": [70, 80, 90], "pixels": 2}
    assert bright["geometry"]["type"] == "MultiPolygon"
    ((ring,),) = bright["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    assert sorted(ring[1:]) == [[2, 0], [2, 2], [3, 0], [3, 2]]


def test_long_rings_are_written_whole(manifest: Manifest) -> None:
    labels = np.zeros((2, 9000), np.uint8)
    labels[0, ::2] = 1
    document = json.loads(encode_contours(labels, manifest))
    (ring,) = document["features"][0]["geometry"]["coordinates"][0]
    (expected,) = trace(labels)[0][0]
    assert len(ring) > 2 * 4096
    assert ring == [*expected.tolist(), expected[0].tolist()]


def checkerboard(side: int) -> Labels:
    return (np.indices((side, side)).sum(0) % 2).astype(np.uint8)


def test_worst_case_is_exact() -> None:
    labels = checkerboard(30)
    polygons = trace(labels)
    assert sum(map(len, polygons.values())) == 900
    np.testing.assert_array_equal(rasterised(polygons, labels.shape), labels)


def test_too_many_corners_are_refused_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = checkerboard(30)
    monkeypatch.setattr(contours, "MAX_CORNERS", 3599)
    with pytest.raises(InvalidParameter, match="more than 3599 corners") as caught:
        trace(labels)
    assert caught.value.extra == {"parameter": "format", "value": "contours", "limit": 3599, "unit": "corners"}
    monkeypatch.setattr(contours, "MAX_CORNERS", 3600)
    assert len(trace(labels)) == 2


def test_too_many_rings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = checkerboard(30)
    monkeypatch.setattr(contours, "MAX_RINGS", 900)
    assert len(trace(labels)) == 2
    monkeypatch.setattr(contours, "MAX_RINGS", 899)
    with pytest.raises(InvalidParameter, match="more than 899 rings, the limit of format=coco") as caught:
        trace(labels, "coco")
    assert caught.value.extra == {"parameter": "format", "value": "coco", "limit": 899, "unit": "rings"}


@pytest.mark.parametrize("shape", [(5000, 10_000), (50, 1_000_000)])
def test_noise_of_50_megapixels_is_refused_at_little_cost(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(InvalidParameter, match="more than 500000 corners"):
        trace(labels)
    assert time.process_time() - began < 2
    assert tracemalloc.get_traced_memory()[1] < 200 << 20
    tracemalloc.stop()
