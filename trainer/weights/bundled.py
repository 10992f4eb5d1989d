"""The checkpoint of the model that comes with the package, to start a training from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import ManifestError, read_manifest

BUNDLED = "bundled"
"""The name of these weights in a configuration."""


def bundled_checkpoint() -> Path | None:
    """The checkpoint of the bundled model, or None where the installation came without it."""
    try:
        directory = bundled_model_dir()
        checkpoint = read_manifest(directory).checkpoint
    except ManifestError:
        return None
    path = None if checkpoint is None else directory / checkpoint.file
    return path if path is not None and path.is_file() else None


def bundled_terms() -> str:
    """The terms of the bundled model, as its manifest states them.

    Raises:
        ManifestError: The installation came without it.
    """
    return read_manifest(bundled_model_dir()).license


def inherited_terms(path: Path, entries: Mapping[str, Any]) -> str:
    """The terms that a checkpoint has from the bundled model; empty if it does not come from that.

    Args:
        path: Its file, which may be the bundled model's own.
        entries: Its entries.
    """
    bundled = bundled_checkpoint()
    pretrained = entries.get("train_config", {}).get("model", {}).get("pretrained")
    if pretrained == BUNDLED or (bundled is not None and path.samefile(bundled)):
        return bundled_terms()
    return str(entries.get("terms", ""))
