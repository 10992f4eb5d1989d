"""What was found, by name: pure functions."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from service.model_directory.manifest import ManifestError
from service.models.source import FoundModel
from service.models.versions import version_order
from service.settings import SettingsError

logger = logging.getLogger(__name__)

# Versions by name, the newest first.
Found = Mapping[str, Sequence[FoundModel]]


def by_name(entries: Iterable[FoundModel], owners: Mapping[Path, str]) -> Found:
    """Sort what was found.

    Args:
        entries: Each version once.
        owners: Names of the models that serve, by the folders that they are from: a manifest that cannot be read says
            nothing of its name, so it counts to the model that was there.
    """
    found: dict[str, list[FoundModel]] = defaultdict(list)
    for entry in entries:
        owner = None if entry.manifest else next(filter(None, map(owners.get, entry.directories)), None)
        found[owner or entry.name].append(entry)
    for versions in found.values():
        versions.sort(key=lambda entry: version_order(entry.version), reverse=True)
    return dict(found)


def refuse_twins(found: Found) -> None:
    """Raises ``ManifestError`` if one version of a model is in two places."""
    for versions in found.values():
        for entry in versions:
            if len(entry.directories) > 1:
                raise ManifestError(entry.problem)


def choose_default(found: Found, wanted: str | None) -> str:
    """The wanted name, or the first; one that only a folder has, as its manifest is broken, is nobody's choice.

    Raises:
        SettingsError: There is none of the wanted name.
    """
    names = sorted(found)
    if wanted is not None:
        if wanted not in names:
            raise SettingsError(f"--default-model is {wanted!r}, but there are only {', '.join(names)}")
        return wanted
    first = next((name for name in names if any(entry.manifest for entry in found[name])), names[0])
    if len(names) > 1:
        logger.info("the default model is %s: of %s the first; --default-model chooses", first, ", ".join(names))
    return first
