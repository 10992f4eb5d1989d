"""The directory of the model that comes with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.model_directory.manifest import MANIFEST_NAME, ManifestError


def bundled_model_dir(parents: Sequence[Path] | None = None) -> Path:
    """The one model directory that comes with an installed wheel, or with a checkout.

    Args:
        parents: Folders that may hold model directories, the first that has any counts. By default the wheel's
            ``service/bundled``, then the checkout's ``models``.

    Raises:
        ManifestError: No model directory, or several of them.
    """
    parents = _default_parents() if parents is None else parents
    for parent in parents:
        found = sorted(manifest.parent for manifest in parent.glob(f"*/{MANIFEST_NAME}"))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(str(directory) for directory in found)
            raise ManifestError(f"several bundled models: {names}; choose one with --model-dir")
    places = " or ".join(str(parent) for parent in parents)
    raise ManifestError(f"no bundled model in {places}; give a model directory with --model-dir")


def _default_parents() -> tuple[Path, Path]:
    package = Path(__file__).resolve().parents[1]
    return package / "bundled", package.parent / "models"
