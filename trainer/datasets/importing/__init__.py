"""Exports of annotation tools to the folder layout of ``trainer.datasets.folder``.

A reader per tool makes records of an export (``records``): images with layers in the tool's drawing order. ``drawing``
rasterises them, ``split`` divides them, ``write`` writes the folder, and ``convert`` joins these.
"""

from trainer.datasets.importing.collector import Source
from trainer.datasets.importing.convert import READERS, Imported, Options, convert
from trainer.datasets.importing.errors import ImportingError

__all__ = ["READERS", "Imported", "ImportingError", "Options", "Source", "convert"]
