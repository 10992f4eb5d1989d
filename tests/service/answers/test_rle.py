"""COCO's run lengths, against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from pycocotools import mask as coco

from service.answers import rle
from service.answers.rle import class_rles
from service.errors import InvalidParameter

maps = npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 3))


@settings(deadline=None, max_examples=100)
@given(maps)
def test_counts_are_those_of_pycocotools(labels: NDArray[np.uint8]) -> None:
    for class_id, counts in class_rles(labels, range(5)).items():
        expected = coco.encode(np.asfortranarray((labels == class_id).astype(np.uint8)))
        assert counts.encode() == expected["counts"]
        assert expected["size"] == list(labels.shape)


# pycocotools 2.0.11 knows numpy 1's conversion to an array only.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_decodes_large_runs() -> None:
    labels = np.zeros((900, 1100), np.uint8)
    labels[100:800, 3:1000] = 1
    labels[400, ::7] = 2
    for class_id, counts in class_rles(labels, (0, 1, 2)).items():
        decoded = coco.decode({"size": [900, 1100], "counts": counts.encode()})
        np.testing.assert_array_equal(decoded == 1, labels == class_id)


@pytest.mark.parametrize(("level", "counts"), [(0, "06"), (9, "6")])
def test_masks_of_one_value(level: int, counts: str) -> None:
    assert class_rles(np.full((2, 3), level, np.uint8), [0]) == {0: counts}


def test_only_the_asked_classes_are_told() -> None:
    assert list(class_rles(np.zeros((2, 2), np.uint8), [3, 1])) == [3, 1]


def test_too_many_runs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)  # 0 0, 1, 0, 1 1 down the columns
    monkeypatch.setattr(rle, "MAX_RUNS", 4)
    assert len(class_rles(labels, (0, 1))) == 2
    monkeypatch.setattr(rle, "MAX_RUNS", 3)
    with pytest.raises(InvalidParameter, match="have 4 runs of equal pixels, the limit of rle=true is 3") as caught:
        class_rles(labels, (0, 1))
    assert caught.value.extra == {"parameter": "rle", "value": True, "limit": 3, "unit": "runs"}
