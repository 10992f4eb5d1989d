"""Sources of models: a model directory, or a folder of them, ``NAME/manifest.json`` or ``NAME/VERSION/...``.

Folder names are up to the user: name and version are the manifest's.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from service.engines.base import Engine, EngineError, closed_on_error, warm_up
from service.engines.measured_choice import open_engine
from service.engines.options import EngineOptions
from service.engines.proof import prove_engine
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import MANIFEST_NAME, Manifest, ManifestError, read_manifest, read_manifest_alone
from service.models.versions import version_order
from service.settings import Settings, SettingsError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A version of a model in the folder, not loaded.

    Attributes:
        name: By its manifest; that of its folder where the manifest cannot be read.
        version: Likewise; empty without a folder of its own.
        directories: Where it is. More than one is an error, see ``problem``.
        manifest: As it was when it was found; None if it cannot be read.
        problem: Why it cannot be served, one sentence; empty if it can be.
    """

    name: str
    version: str
    directories: tuple[Path, ...] = ()
    manifest: Manifest | None = None
    problem: str = ""

    @property
    def title(self) -> str:
        """Name and version in one."""
        return f"{self.name} {self.version}".strip()


# Versions by the name of their model, the newest first.
VersionsByName = Mapping[str, Sequence[FoundModel]]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A version of a model whose engine has passed its self-check.

    Attributes:
        manifest: The model.
        engine: What runs it.
        seconds: Of a batch by its size, measured.
    """

    manifest: Manifest
    engine: Engine
    seconds: Mapping[int, float]


class ModelSource(Protocol):
    """Finds and loads models."""

    def find(self) -> Sequence[FoundModel]:
        """Every version of every model, once each.

        Raises:
            ManifestError: There is none, or it cannot be known.
        """
        ...

    def load(self, found: FoundModel) -> LoadedModel:
        """Load a version that has no problem and run its self-check; takes seconds to minutes, in a thread.

        Raises:
            EngineError, ManifestError: It is not fit to serve.
        """
        ...


class GivenModel:
    """One model with a given engine."""

    def __init__(self, engine: Engine, manifest: Manifest) -> None:
        self._engine = engine
        self._manifest = manifest

    def find(self) -> Sequence[FoundModel]:
        """See ``ModelSource``."""
        return [FoundModel(self._manifest.name, self._manifest.version, manifest=self._manifest)]

    def load(self, found: FoundModel) -> LoadedModel:  # noqa: ARG002
        """See ``ModelSource``; the engine is warmed up."""
        return LoadedModel(self._manifest, self._engine, warm_up(self._engine))


class ModelFolder:
    """A model directory, or a folder of several."""

    def __init__(self, root: Path, options: EngineOptions) -> None:
        """``options`` name the engine that every model gets."""
        self._root = root
        self._options = options

    def find(self) -> Sequence[FoundModel]:
        """See ``ModelSource``; reads manifests, not graphs."""
        try:
            directories = _model_directories(self._root)
        except OSError as error:
            raise ManifestError(f"{self._root} cannot be read: {error.strerror}") from error
        if not directories:
            raise ManifestError(
                f"{self._root} is not a model directory: neither it nor a folder in it has a {MANIFEST_NAME}"
            )
        return _joined(_read(self._root, directory) for directory in directories)

    def load(self, found: FoundModel) -> LoadedModel:
        """See ``ModelSource``; compares the files with the manifest and the engine with PyTorch's outputs."""
        (directory,) = found.directories
        manifest = read_manifest(directory)
        if manifest != found.manifest:
            raise EngineError(f"{directory / MANIFEST_NAME} has changed since it was found; load it again")
        engine = open_engine(directory, manifest, self._options)
        with closed_on_error(engine):
            return LoadedModel(manifest, engine, prove_engine(engine, directory, manifest))


def model_source(settings: Settings) -> ModelFolder:
    """The model directory of the settings, or the bundled one."""
    return ModelFolder(settings.model_dir or bundled_model_dir(), settings.engine_options)


def _model_directories(root: Path) -> list[Path]:
    """Each once, also where links lead to it; hidden entries are not models, such as Kubernetes' ``..data``."""
    if (root / MANIFEST_NAME).is_file():
        return [root]
    manifests = [*root.glob(f"*/{MANIFEST_NAME}"), *root.glob(f"*/*/{MANIFEST_NAME}")]
    visible = [path for path in manifests if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    return list({path.parent.resolve(): path.parent for path in sorted(visible, reverse=True)}.values())


def _read(root: Path, directory: Path) -> FoundModel:
    folder, version = [*directory.relative_to(root).parts, "", ""][:2]
    unknown = FoundModel(folder or root.resolve().name, version, (directory,))
    try:
        manifest = read_manifest_alone(directory)
    except ManifestError as error:
        return replace(unknown, problem=str(error))
    return FoundModel(manifest.name, manifest.version, (directory,), manifest)


def _joined(found: Iterable[FoundModel]) -> list[FoundModel]:
    """Each version once; one that is in several places has that as its problem."""
    versions: dict[tuple[str, str], FoundModel] = {}
    for entry in found:
        key = entry.name, entry.version
        twin = versions.get(key)
        if twin is None:
            versions[key] = entry
            continue
        directories = tuple(sorted((*twin.directories, *entry.directories)))
        places = " and ".join(map(str, directories))
        problem = f"{places} hold the same version, {entry.name} {entry.version}: remove one, or give it another"
        versions[key] = replace(entry, directories=directories, manifest=None, problem=problem)
    return list(versions.values())


def by_name(entries: Iterable[FoundModel], owners: Mapping[Path, str]) -> VersionsByName:
    """Sort the found versions.

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


def refuse_duplicates(found: VersionsByName) -> None:
    """Raises ``ManifestError`` if one version of a model is in two places."""
    for versions in found.values():
        for entry in versions:
            if len(entry.directories) > 1:
                raise ManifestError(entry.problem)


def choose_default(found: VersionsByName, wanted: str | None) -> str:
    """The wanted name, or the first; a name that only a folder has, because its manifest is broken, is never chosen.

    Raises:
        SettingsError: There is none of the wanted name.
    """
    names = sorted(found)
    if wanted is not None:
        if wanted not in names:
            raise SettingsError(f"--default-model is {wanted!r}; the available models are {', '.join(names)}")
        return wanted
    first = next((name for name in names if any(entry.manifest for entry in found[name])), names[0])
    if len(names) > 1:
        logger.info(
            "the default model is %s, the first of %s; --default-model chooses another", first, ", ".join(names)
        )
    return first
