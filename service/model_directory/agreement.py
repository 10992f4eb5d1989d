"""Agreement of a runtime's rows with PyTorch's, and its bounds. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.model_directory.manifest import Bounds


class AgreementError(RuntimeError):
    """A runtime that does not agree with PyTorch; the text has the values and the limits."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of two outputs for the same images.

    Attributes:
        equal_labels: Share of equal labels, 0..1.
        max_logit_error: Largest absolute error of a logit; None where the output is labels.
    """

    equal_labels: float
    max_logit_error: float | None = None

    def fault(self, bounds: Bounds) -> str | None:
        """A sentence about the first value beyond the bounds, or None; NaN is beyond."""
        faults = []
        if not self.equal_labels >= bounds.min_equal_labels:
            faults.append(f"equal labels {self.equal_labels:.3%} (at least {bounds.min_equal_labels:.1%})")
        error, limit = self.max_logit_error, bounds.max_logit_error
        if error is not None and not error <= (np.inf if limit is None else limit):
            allowed = "finite" if limit is None else f"at most {limit:.0e}"
            faults.append(f"largest logit error {error:.2e} ({allowed})")
        return ", ".join(faults) or None

    def check(self, bounds: Bounds, subject: str) -> None:
        """Raise beyond the bounds.

        Raises:
            AgreementError: The text names the subject, the values and the limits.
        """
        if (fault := self.fault(bounds)) is not None:
            raise AgreementError(f"{subject} differs from PyTorch: {fault}")

    def __str__(self) -> str:
        error = "" if self.max_logit_error is None else f"largest logit error {self.max_logit_error:.1e}, "
        return f"{error}equal labels {self.equal_labels:.3%}"


def worst(agreements: list[Agreement]) -> Agreement:
    """The largest error and the smallest share of several; NaN wins."""
    errors = [agreement.max_logit_error for agreement in agreements if agreement.max_logit_error is not None]
    shares = [agreement.equal_labels for agreement in agreements]
    return Agreement(float(np.min(shares)), float(np.max(errors)) if errors else None)


def logits_agreement(expected: NDArray[np.float32], found: NDArray[np.float32]) -> Agreement:
    """Agreement of logits (B, K, h, w), whose labels are those of the largest class.

    Raises:
        ValueError: The shapes differ.
    """
    _check_shapes(expected, found)
    equal = expected.argmax(1) == found.argmax(1)
    return Agreement(float(equal.mean()), float(np.abs(expected.astype(np.float64) - found).max()))


def labels_agreement(expected: NDArray[np.uint8], found: NDArray[np.uint8]) -> Agreement:
    """Agreement of labels (B, h, w).

    Raises:
        ValueError: The shapes differ.
    """
    _check_shapes(expected, found)
    return Agreement(float((expected == found).mean()))


def _check_shapes(expected: NDArray[np.generic], found: NDArray[np.generic]) -> None:
    if expected.shape != found.shape:
        raise ValueError(f"the output has shape {found.shape}, expected {expected.shape}")
