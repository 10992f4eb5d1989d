"""All models of a process: one version of each name serves; which one can change without a request being lost.

A new version is loaded and proven beside the old one, which serves meanwhile. Then new requests go to the new one,
those inside finish where they began, and after the last of them the old engine is closed. Changes come one by one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from service.errors import LoadFailure, UnknownModel
from service.metrics import Metrics
from service.model_directory.manifest import ManifestError
from service.models.catalog import Catalog
from service.models.change_queue import ChangeQueue
from service.models.entry import Choice, IndexEntry, ModelEntry
from service.models.model import Host, Model, load_model
from service.models.source import FoundModel, ModelSource, VersionsByName, by_name, choose_default, refuse_duplicates

logger = logging.getLogger(__name__)


class Repository(Catalog[Model]):
    """Finds, loads, switches and unloads models."""

    def __init__(
        self,
        source: ModelSource,
        host: Host,
        metrics: Metrics,
        default: str | None = None,
        choices: Mapping[str, Choice | None] | None = None,
    ) -> None:
        """List the versions in the folder; ``start`` loads.

        Args:
            source: Of the models.
            host: The process.
            metrics: Of this process.
            default: Name of the default model; the first by name if not given.
            choices: From ``choices`` of an earlier repository, which this one replaces.

        Raises:
            ManifestError: There is no model, or one version exists twice.
            SettingsError: No model is called ``default``.
        """
        found = by_name(source.find(), {})
        refuse_duplicates(found)
        self._entries: dict[str, ModelEntry] = {}
        super().__init__(choose_default(found, default), self._entries)
        self._source = source
        self._host = host
        self._metrics = metrics
        self._open: set[Model] = set()
        self._changes = ChangeQueue()
        self._note_names(found)
        for name, choice in (choices or {}).items():
            if (entry := self._entries.get(name)) is not None:
                entry.choice, entry.is_unloaded = choice, choice is None

    @property
    def choices(self) -> dict[str, Choice | None]:
        """The choices of ``load`` by model name; None for a model that ``unload`` stopped."""
        return {
            name: entry.choice for name, entry in self._entries.items() if entry.is_unloaded or entry.choice is not None
        }

    @property
    def open_models(self) -> Collection[Model]:
        """Those that serve, and those whose last requests are being answered."""
        return self._open

    def check_alive(self) -> None:
        """Raises ``EngineDown`` if only a new process can help: its engines are in this one."""
        self.check_engines()

    async def connect(self) -> None:
        """Nothing to connect to: the engines are in this process."""

    async def start(self) -> None:
        """Load the default model, unless it was unloaded; of its versions the chosen or the newest that works.

        Raises:
            LoadFailure: None does.
            Draining: See ``close``.
        """
        await self._changes.run(self._start)
        entry = self._entries[self.default]
        if entry.serving is None and not entry.is_unloaded:
            raise LoadFailure(entry.failure)

    async def start_others(self) -> None:
        """Load the other models likewise; those without a version that works are left out.

        Raises:
            Draining: See ``close``.
        """
        await self._changes.run(self._start_others)

    async def load(self, name: str, version: str | None = None) -> Model:
        """Load a version, also one that serves already, and let it take over.

        Args:
            name: Of the model.
            version: The one to load; the newest in the folder if not given.

        Raises:
            UnknownModel: There is no such model or version.
            LoadFailure: It cannot be served; the old version goes on serving.
            Draining: See ``close``.
        """
        return await self._changes.run(lambda: self._load(name, version))

    async def unload(self, name: str) -> None:
        """Stop serving a model until ``load``; requests inside are answered.

        Raises:
            UnknownModel: There is no such model.
            Draining: See ``close``.
        """
        await self._changes.run(lambda: self._unload(name))

    async def rescan(self) -> str:
        """Follow what has changed on disk, and give a summary.

        New models and newer versions are loaded, removed ones are unloaded. A model for which a version was
        chosen by ``load`` keeps it until a version appears that is newer than all that existed then; one that was
        unloaded stays so. Where no new version works, the old one goes on serving.

        Raises:
            Draining: See ``close``.
        """
        return await self._changes.run(self._rescan)

    async def index(self) -> list[IndexEntry]:
        """Every version that exists or serves, and its state."""
        try:
            found = await self._scan()
        except LoadFailure:
            found = {}
        entries = [self._entries.get(name, ModelEntry(name)) for name in sorted({*found, *self._entries})]
        return [line for entry in entries for line in entry.index(found.get(entry.name, []))]

    def close(self) -> None:
        """Change nothing more: a running load is given up, and the next one raises ``Draining``."""
        self._changes.close()

    async def stop(self) -> None:
        """Drop all models."""
        await self._changes.until_closed()
        for model in tuple(self._open):
            await model.stop()

    def _note_names(self, found: VersionsByName) -> None:
        """Note new names, which are about to be loaded."""
        for name, versions in found.items():
            entry = self._entries.setdefault(name, ModelEntry(name, is_due=True))
            entry.newest = versions[0].version

    async def _start(self) -> None:
        found = await self._scan()
        entry = self._entries[self.default]
        failed = await self._renew(entry, found.get(self.default, []))
        if entry.serving is not None:  # or else the process ends and says why
            entry.log_failures(failed)

    async def _start_others(self) -> None:
        found = await self._scan()
        self._note_names(found)
        for name in sorted(found.keys() - {self.default}):
            entry = self._entries[name]
            entry.log_failures(await self._renew(entry, found[name]))

    async def _scan(self) -> VersionsByName:
        owners = {place: model.manifest.name for model in self.models for place in model.found.directories}
        try:
            return by_name(await asyncio.to_thread(self._source.find), owners)
        except ManifestError as error:
            raise LoadFailure(str(error)) from error

    async def _load(self, name: str, version: str | None) -> Model:
        versions = (await self._scan()).get(name, [])
        if not versions:
            raise self.unknown(name, "is not there")
        wanted = [found_version for found_version in versions if version in (None, found_version.version)]
        if not wanted:
            there = ", ".join(found_version.version for found_version in versions)
            raise UnknownModel(f"version {version!r} of '{name}' does not exist; these do: {there}")
        entry = self._entries.setdefault(name, ModelEntry(name))
        try:
            model = await self._switch(entry, wanted[0])
        except LoadFailure:
            entry.log_failures(wanted[:1])
            raise
        entry.newest = versions[0].version
        entry.choice = Choice(model.version, entry.newest)
        return model

    async def _unload(self, name: str) -> None:
        entry = self._entries.get(name)
        if entry is None:
            raise self.unknown(name, "is unknown")
        entry.is_unloaded, entry.choice = True, None
        self._retire(entry)
        self._host.models_changed()

    async def _rescan(self) -> str:
        try:
            found = await self._scan()
        except LoadFailure as error:
            return f"no model changed: {error.detail}"
        self._note_names(found)
        before = self._served()
        failed: list[str] = []
        for name, versions in sorted(found.items()):
            entry = self._entries[name]
            spoilt = await self._renew(entry, versions)
            entry.log_failures(spoilt)
            failed += [found_version.title for found_version in spoilt]
        for name in set(self._entries) - set(found):
            self._retire(self._entries.pop(name))
        self._host.models_changed()
        return _summarize(before, self._served(), failed)

    def _served(self) -> dict[str, Model]:
        return {model.manifest.name: model for model in self.models}

    async def _renew(self, entry: ModelEntry, versions: Sequence[FoundModel]) -> list[FoundModel]:
        """Let the newest version that works take over; gives those that were tried and do not."""
        failed = []
        entry.forget_others(versions)
        try:
            for found_version in entry.candidates(versions):
                with suppress(LoadFailure):
                    await self._switch(entry, found_version)
                    break
                failed.append(found_version)
        finally:
            entry.is_due = False
        return failed

    async def _switch(self, entry: ModelEntry, found_version: FoundModel) -> Model:
        """Load a version and let it take over."""
        metrics = self._metrics.of_model(entry.name)
        with entry.loading_version(found_version.version):
            try:
                model = await load_model(self._source, found_version, self._host, metrics)
            except LoadFailure as error:
                entry.failures[found_version.version] = error.detail
                metrics.load_finished("failure")
                raise
        entry.failures.pop(found_version.version, None)
        self._retire(entry)
        entry.serve(model)
        self._open.add(model)
        metrics.load_finished("success")
        metrics.serve(model)
        self._host.models_changed()
        logger.info("%s %s serves", entry.name, model.version)
        return model

    def _retire(self, entry: ModelEntry) -> None:
        """Send no more requests to what serves, and close it after the last; the caller notifies the host next."""
        model, entry.serving = entry.serving, None
        if model is not None:
            self._metrics.of_model(entry.name).leave()
            self._changes.background(self._close(model))

    async def _close(self, model: Model) -> None:
        await self._host.until_unused(model)
        await model.stop()
        self._open.discard(model)
        logger.info("%s %s is closed", model.manifest.name, model.version)


def _summarize(before: Mapping[str, Model], after: Mapping[str, Model], failed: Sequence[str]) -> str:
    """Compare the models that served, by name, before and after; ``failed`` are versions that could not be loaded."""
    loaded = [f"{name} {model.version}" for name, model in after.items() if before.get(name) is not model]
    unloaded = [f"{name} {model.version}" for name, model in before.items() if name not in after]
    parts = [
        f"{len(names)} {what} ({', '.join(names)})" if names else f"0 {what}"
        for what, names in (("loaded", loaded), ("unloaded", unloaded), ("failed", failed))
    ]
    return f"{', '.join(parts)}, {len(after) - len(loaded)} unchanged"
