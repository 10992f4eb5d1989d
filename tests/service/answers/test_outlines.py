"""Regions without holes: the same area, the same pixels, and bounds on what is made of a map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from service.answers import outlines as module
from service.answers.outlines import Outline, outlines
from service.errors import InvalidParameter
from service.model_directory.manifest import Manifest
from trainer.datasets.importing.regions import Polygon

Labels = NDArray[np.uint8]
VOID = 255

maps = npst.arrays(
    np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 2, VOID])
)


def filled(found: list[Outline], shape: tuple[int, int]) -> Labels:
    """The label map that the outlines give, filled in their order by the trainer's import, which takes COCO's code."""
    labels = np.full(shape, VOID, np.uint8)
    for outline in found:
        Polygon(outline.ring.astype(np.float64)).paint(labels, outline.info.id)
    return labels


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=maps)
def test_outlines_give_the_label_map_back(labels: Labels, manifest: Manifest) -> None:
    found = outlines(labels, manifest, 0, "coco")
    np.testing.assert_array_equal(filled(found, labels.shape), labels)
    assert sum(outline.area for outline in found) == (labels != VOID).sum()


def test_holes_of_a_class_that_was_not_asked_for_stay_open(manifest: Manifest) -> None:
    labels = np.zeros((12, 16), np.uint8)
    labels[2:4, 3:6] = labels[7:10, 3:5] = labels[5:7, 9:13] = VOID
    (outline,) = outlines(labels, manifest, 0, "coco")
    assert outline.area == (labels == 0).sum()
    assert len(outline.ring) == 4 + 3 * (4 + 2)
    np.testing.assert_array_equal(filled([outline], labels.shape), labels)


def test_the_largest_comes_first(manifest: Manifest) -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[1:3, 1:3], labels[5, 5] = 2, 1
    found = outlines(labels, manifest, 0, "coco")
    assert [(outline.info.name, outline.area) for outline in found] == [("dark", 59), ("bright", 4), ("grey", 1)]


@pytest.mark.parametrize(
    ("name", "unit", "count"),
    [("MAX_CORNERS", "corners", 40), ("MAX_HOLES", "holes", 8), ("MAX_REGIONS", "regions", 2)],
)
def test_what_no_person_edits_is_refused(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, name: str, unit: str, count: int
) -> None:
    labels = np.zeros((9, 19), np.uint8)
    labels[2, 1:17:2] = VOID  # eight holes
    labels[5:, :] = 1
    monkeypatch.setattr(module, name, count)
    assert len(outlines(labels, manifest, 0, "coco")) == 2
    monkeypatch.setattr(module, name, count - 1)
    with pytest.raises(InvalidParameter, match=f"{count} {unit}, the limit of format=coco is {count - 1}") as caught:
        outlines(labels, manifest, 0, "coco")
    assert caught.value.extra == {"parameter": "format", "value": "coco", "limit": count - 1, "unit": unit}
    if unit != "regions":
        assert len(outlines(labels, manifest, 2, "coco")) == 2


def test_holes_of_a_long_ring_are_joined_to_it_too(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_COMPARED", 3)
    labels = np.zeros((40, 40), np.uint8)
    labels[0, ::2] = labels[::2, 0] = 1
    labels[10:12, 10:12] = labels[20:24, 9] = labels[30, 30] = VOID
    found = outlines(labels, manifest, 0, "coco")
    np.testing.assert_array_equal(filled(found, labels.shape), labels)
    # The hole at 30, 30 is nearest to the ring's corner at 40, 40, which is not compared.
    monkeypatch.setattr(module, "_MOST_COMPARED", 4096)
    nearest = outlines(labels, manifest, 0, "coco")
    assert len(nearest[0].ring) == len(found[0].ring)
    assert nearest[0].ring.tolist() != found[0].ring.tolist()
