"""The checkpoint that a model directory was exported from: it may be missing, but must not have changed."""

from __future__ import annotations

from pathlib import Path

from service.model_directory.manifest import Manifest, file_sha256


def checkpoint_fault(directory: Path, manifest: Manifest) -> str | None:
    """The reason why the checkpoint cannot be read from the path that the manifest states, or None."""
    if manifest.checkpoint is None:
        return "the manifest does not state its checkpoint"
    path = directory / manifest.checkpoint.file
    if not path.is_file():
        return f"the checkpoint is not at {path}"
    if file_sha256(path) != manifest.checkpoint.sha256:
        return f"the checkpoint {path} was changed after the export"
    return None
