"""Agreement of an engine's outputs with PyTorch's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from service.model_directory.agreement import Agreement, AgreementError, labels_agreement, logits_agreement, worst
from service.model_directory.manifest import Bounds

BOUNDS = Bounds(min_equal_labels=0.99, max_logit_error=1e-3)


def test_logits_are_compared_by_error_and_by_largest_class() -> None:
    expected = np.zeros((1, 2, 2, 2), np.float32)
    expected[0, 1] = 1  # class 1 everywhere
    found = expected.copy()
    found[0, 0, 0, 0] = 3  # class 0 in one cell of four
    assert logits_agreement(expected, found) == Agreement(0.75, 3.0)
    assert logits_agreement(expected, expected) == Agreement(1.0, 0.0)


def test_labels_are_compared_by_share() -> None:
    expected = np.array([[[0, 1], [2, 3]]], np.uint8)
    found = np.array([[[0, 1], [2, 0]]], np.uint8)
    assert labels_agreement(expected, found) == Agreement(0.75, None)


def test_other_shapes_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"has shape \(1, 2, 2\), expected \(1, 2, 3\)"):
        labels_agreement(np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 2), np.uint8))


def test_the_bounds_themselves_are_allowed() -> None:
    Agreement(0.99, 1e-3).check(BOUNDS, "it")
    Agreement(0.99).check(BOUNDS, "it")  # labels have no error of logits
    Agreement(1.0, 1e9).check(Bounds(0.99), "it")  # no limit


@pytest.mark.parametrize(
    ("agreement", "bounds", "told"),
    [
        (Agreement(0.98, 0.0), BOUNDS, r"it differs from PyTorch: equal labels 98\.000% \(at least 99\.0%\)$"),
        (Agreement(1.0, 2e-3), BOUNDS, r"PyTorch: largest logit error 2\.00e-03 \(at most 1e-03\)$"),
        (Agreement(0.5, 1.0), BOUNDS, r"equal labels 50.*, largest logit error 1\.00e\+00"),
        (Agreement(1.0, math.nan), BOUNDS, r"largest logit error nan \(at most 1e-03\)"),
        (Agreement(1.0, math.nan), Bounds(0.99), r"largest logit error nan \(finite\)"),
        (Agreement(math.nan), BOUNDS, "equal labels nan%"),
    ],
)
def test_beyond_the_bounds_is_an_error_with_value_and_limit(agreement: Agreement, bounds: Bounds, told: str) -> None:
    with pytest.raises(AgreementError, match=told):
        agreement.check(bounds, "it")


def test_the_worst_of_several_counts() -> None:
    assert worst([Agreement(1.0, 0.1), Agreement(0.9, 0.2), Agreement(0.95, 0.0)]) == Agreement(0.9, 0.2)
    assert worst([Agreement(1.0), Agreement(0.5)]) == Agreement(0.5)
    assert math.isnan(worst([Agreement(1.0, math.nan), Agreement(1.0, 0.2)]).max_logit_error or 0.0)
