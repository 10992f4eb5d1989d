"""The end of a run that no longer improves, and the line on each evaluation."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trainer.patience import best_entry, evaluation_text, is_exhausted


def log_of(*scores: float | None) -> list[dict[str, Any]]:
    """An entry per epoch; without a score where the epoch has no evaluation."""
    return [{"epoch": place, **({} if s is None else {"val_miou": s})} for place, s in enumerate(scores, 1)]


@pytest.mark.parametrize(
    ("scores", "patience", "ends"),
    [
        ([], 2, False),
        ([None, 0.5, None, 0.4], 2, False),
        ([None, 0.5, None, 0.4, None, 0.5], 2, True),  # as good is not better
        ([0.5, 0.4, 0.6], 2, False),
        ([0.5, 0.4, 0.4, 0.4], 0, False),
        ([0.5, math.nan, math.nan], 2, True),
        ([math.nan, math.nan], 1, False),
    ],
)
def test_a_run_ends_after_as_many_evaluations_without_a_better_one(
    scores: list[float | None], patience: int, ends: bool
) -> None:
    assert is_exhausted(log_of(*scores), patience) is ends


def test_an_evaluation_is_told_beside_the_best() -> None:
    assert evaluation_text(log_of(0.5, None, 0.625), 9) == "epoch 3/9: mIoU 62.50, the best so far"
    assert evaluation_text(log_of(0.625, 0.5), 9) == "epoch 2/9: mIoU 50.00, best 62.50 in epoch 1"
    assert evaluation_text(log_of(math.nan), 9) == "epoch 1/9: no labelled pixel in val"


def test_of_equal_scores_the_first_is_the_best() -> None:
    assert best_entry(log_of(0.1, 0.5, 0.5)) == {"epoch": 2, "val_miou": 0.5}
    assert best_entry(log_of(None, math.nan)) is None
    assert best_entry([{"epoch": 1, "val_miou": None}, {"epoch": 2, "val_miou": 0.25}]) == {
        "epoch": 2,
        "val_miou": 0.25,
    }
