"""Prediction modes: sizes of views, and values that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.prediction.mode import PredictionMode, PredictionModeError, keep_ratio


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((480, 640), 640, (640, 853)),
        ((640, 480), 320, (427, 320)),
        ((100, 1000), 640, (256, 2560)),
        ((5, 5), 1, (1, 1)),
    ],
)
def test_the_ratio_is_kept_and_the_long_side_bounded(
    size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    assert keep_ratio(size, short_side) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": (32, 32)}, "for --mode slide"),
        ({"stride": (32, 32)}, "for --mode slide"),
        ({"slide": True, "crop": (0, 32)}, "the crop is 0x32"),
        ({"slide": True, "stride": (32, -1)}, "the stride is 32x-1"),
        ({"short_side": 0}, "1 pixel or more"),
        ({"scales": ()}, r"the scales are \[\]"),
        ({"scales": (1.0, 1.0)}, "each of them once"),
        ({"scales": (0.5, 0.0)}, "a scale is 0, expected above 0 and at most 8"),
        ({"scales": (float("nan"),)}, "a scale is nan"),
        ({"scales": (9.0,)}, "a scale is 9"),
    ],
)
def test_modes_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PredictionModeError, match=message):
        PredictionMode(**arguments)
