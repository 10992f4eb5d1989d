"""Formats that cannot hold labels: compression with loss turns ids into others along every border."""

from __future__ import annotations

from pathlib import Path

from trainer.datasets.errors import LossyLabelError

LOSSY_FORMATS = frozenset({"JPEG", "MPO", "JPEG2000", "AVIF"})
LOSSY_EXTENSIONS = (".jpg", ".jpeg", ".webp", ".avif", ".heic")


def lossy_label(path: Path) -> LossyLabelError:
    """The error for a mask in such a format."""
    return LossyLabelError(f"{path} is compressed with loss, which changes the ids; labels must be PNG, BMP or TIFF")
