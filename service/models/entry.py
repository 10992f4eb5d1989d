"""A model's name, the version that serves, and the state of its other versions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from service.models.model import Model
from service.models.source import FoundModel
from service.models.versions import version_order

logger = logging.getLogger(__name__)

ModelState = Literal["READY", "LOADING", "UNAVAILABLE"]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """The state of a version.

    Attributes:
        name: Of the model.
        version: Of the model.
        state: ``READY`` if it serves, and its engine works.
        reason: Why it does not; empty if it does.
    """

    name: str
    version: str
    state: ModelState
    reason: str


class Choice(NamedTuple):
    """A version that somebody has chosen by ``load``.

    Attributes:
        version: The one.
        newest: The newest version that existed then.
    """

    version: str
    newest: str


@dataclass(eq=False, slots=True)
class ModelEntry:
    """A model name, with the version that serves.

    Attributes:
        name: Of the model.
        newest: The newest version that was found.
        serving: The version that serves, if one does.
        loading: Version that is being loaded; None if none is.
        is_due: Whether it is about to be loaded for the first time.
        is_unloaded: Whether somebody has unloaded it.
        choice: The version that ``load`` chose, until a newer one takes over; None if there is none.
        failures: Why versions could not be loaded, when that was tried last.
    """

    name: str
    newest: str = ""
    serving: Model | None = None
    loading: str | None = None
    is_due: bool = False
    is_unloaded: bool = False
    choice: Choice | None = None
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def is_coming(self) -> bool:
        """True if a version is about to serve."""
        return self.is_due or self.loading is not None

    @property
    def failure(self) -> str:
        """The reason why no version serves."""
        if self.is_unloaded:
            return "it was unloaded"
        if len(self.failures) == 1:
            return next(iter(self.failures.values()))
        versions = sorted(self.failures, key=version_order, reverse=True)
        return "; ".join(f"{version}: {self.failures[version]}" for version in versions) or "it is not loaded"

    @contextmanager
    def loading_version(self, version: str) -> Iterator[None]:
        """Say that a version is being loaded."""
        self.loading = version
        try:
            yield
        finally:
            self.loading = None

    def log_failures(self, failed: Iterable[FoundModel]) -> None:
        """Log why versions could not be loaded."""
        for entry in failed:
            logger.error("%s cannot be served: %s", entry.title, self.failures[entry.version])

    def serve(self, model: Model) -> None:
        """A version takes over."""
        self.serving = model
        self.is_unloaded = False
        if self.choice is not None and self.choice.version != model.version:
            self.choice = None

    def forget_others(self, versions: Sequence[FoundModel]) -> None:
        """Forget versions that no longer exist."""
        there = {entry.version for entry in versions}
        self.failures = {version: reason for version, reason in self.failures.items() if version in there}

    def candidates(self, versions: Sequence[FoundModel]) -> Sequence[FoundModel]:
        """The existing versions to try in place of the one that serves, newest first."""
        if self.is_unloaded:
            return []
        serving, choice = self.serving, self.choice
        if serving is None:
            return versions if choice is None else sorted(versions, key=lambda entry: _rank(entry.version, choice))
        same = [entry for entry in versions if _is_place_of(entry, serving)]
        if not same:
            return versions
        least = max(serving.version, choice.newest if choice else serving.version, key=version_order)
        newer = [entry for entry in versions if version_order(entry.version) > version_order(least)]
        return [*newer, *(entry for entry in same if entry not in newer and entry.manifest != serving.manifest)]

    def index(self, versions: Sequence[FoundModel]) -> list[IndexEntry]:
        """The state of every available version and of the one that serves, newest first."""
        there = {entry.version: entry for entry in versions}
        if self.serving is not None:
            there.setdefault(self.serving.version, self.serving.found)
        newest_first = sorted(there.values(), key=lambda entry: version_order(entry.version), reverse=True)
        return [self._entry(entry) for entry in newest_first]

    def _entry(self, found: FoundModel) -> IndexEntry:
        if self.serving is not None and self.serving.version == found.version:
            down = self.serving.queue.down
            return IndexEntry(self.name, found.version, "UNAVAILABLE" if down else "READY", down)
        if self.loading == found.version:
            return IndexEntry(self.name, found.version, "LOADING", "it is being loaded")
        return IndexEntry(self.name, found.version, "UNAVAILABLE", self._obstacle(found))

    def _obstacle(self, found: FoundModel) -> str:
        """The reason why a version does not serve."""
        known = self.failures.get(found.version) or found.problem
        if known:
            return known
        if self.serving is not None:
            return f"not loaded: version {self.serving.version} serves"
        return "unloaded" if self.is_unloaded else "not loaded yet"


def _rank(version: str, choice: Choice) -> int:
    """Place in the order of loads: what is newer than all that the choice was made of, the choice, the others."""
    if version_order(version) > version_order(choice.newest):
        return 0
    return 1 if version == choice.version else 2


def _is_place_of(found: FoundModel, serving: Model) -> bool:
    """True for the version that serves, and for an unreadable manifest in its folder."""
    if found.version == serving.version:
        return True
    return found.manifest is None and bool(set(found.directories) & set(serving.found.directories))
