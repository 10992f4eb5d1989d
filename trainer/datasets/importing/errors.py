"""Errors of an export; every text names the file, the value and the expected form."""

from __future__ import annotations

from trainer.datasets.errors import DatasetError


class ImportingError(DatasetError):
    """An export that is not in the form that its tool publishes, or that does not fit its images."""
