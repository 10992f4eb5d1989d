"""The models by name, as requests see them: which one a name means, and why one does not serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from service.errors import EngineDown, NotReady, UnknownModel
from service.inference.image_queue import ImageQueue
from service.model_directory.manifest import GraphInfo, Manifest


class Loaded(Protocol):
    """A version that was loaded; another one may have taken over since.

    Attributes:
        version: The manifest's.
    """

    @property
    def version(self) -> str: ...


class ServedModel(Protocol):
    """A version of a model that serves.

    Attributes:
        manifest: The model.
        version: The manifest's.
        graph: The one of its graphs that runs.
        engine_name: The runtime that it runs on.
        queue: The queue before its engine.
    """

    @property
    def manifest(self) -> Manifest: ...
    @property
    def version(self) -> str: ...
    @property
    def graph(self) -> GraphInfo: ...
    @property
    def engine_name(self) -> str: ...
    @property
    def queue(self) -> ImageQueue: ...


ModelT = TypeVar("ModelT", bound=ServedModel)
ModelT_co = TypeVar("ModelT_co", bound=ServedModel, covariant=True)


class CatalogEntry(Protocol[ModelT_co]):
    """A model name.

    Attributes:
        newest: The newest version that was found.
        serving: The version that serves, if one does.
        is_coming: True if a version is about to serve.
        failure: The reason why no version serves, one sentence.
    """

    @property
    def newest(self) -> str: ...
    @property
    def serving(self) -> ModelT_co | None: ...
    @property
    def is_coming(self) -> bool: ...
    @property
    def failure(self) -> str: ...


class Catalog(Generic[ModelT]):
    """The models of a process, by name.

    Attributes:
        default: Name of the model for requests that name none.
    """

    def __init__(self, default: str, entries: Mapping[str, CatalogEntry[ModelT]]) -> None:
        """``entries`` may change as models come and go."""
        self.default = default
        self.entries = entries

    @property
    def models(self) -> list[ModelT]:
        """Those that serve, by name."""
        return [entry.serving for _, entry in sorted(self.entries.items()) if entry.serving is not None]

    @property
    def default_version(self) -> str:
        """Version of the default model that serves; the newest that was found where none does."""
        entry = self.entries.get(self.default)
        if entry is None:
            return ""
        return entry.newest if entry.serving is None else entry.serving.version

    def resolve(self, name: str | None) -> str:
        """The name that a request means; one that is known, but may not be served now.

        Raises:
            UnknownModel: No model has that name.
        """
        if name is None or name in self.entries:
            return name or self.default
        raise self.unknown(name, "is unknown")

    def serving(self, name: str | None = None, version: str | None = None) -> ModelT:
        """The model that answers.

        Args:
            name: Its name; the default model if not given.
            version: Must be the one that serves, if given.

        Raises:
            UnknownModel: No model of that name, or another version of it, is served.
            NotReady: It is being loaded, or it is the default model, which has no version that serves.
            EngineDown: Its engine does not work.
        """
        name = self.resolve(name)
        entry = self.entries.get(name)
        if entry is None or entry.serving is None:
            raise self._absent(name, entry)
        model = entry.serving
        if version not in (None, model.version):
            raise UnknownModel(f"version {version!r} of '{name}' is not served; '{model.version}' is")
        if model.queue.down:
            raise EngineDown(model.queue.down, retry_after_s=1)
        return model

    def check_engines(self) -> None:
        """Raises ``EngineDown`` if the engine of a model that serves does not work."""
        for model in self.models:
            if model.queue.down:
                raise EngineDown(f"{model.manifest.name}: {model.queue.down}", retry_after_s=1)

    def unknown(self, name: str, what: str) -> UnknownModel | NotReady:
        """The error for a name; ``what`` continues "model 'NAME'"."""
        served = [model.manifest.name for model in self.models]
        names = ", ".join(map(repr, served)) or "none"
        return UnknownModel(
            f"model {name!r} {what}; served: {names}", extra={"parameter": "model", "value": name, "accepted": served}
        )

    def _absent(self, name: str, entry: CatalogEntry[ModelT] | None) -> NotReady | UnknownModel:
        """The error for a known model that does not serve."""
        if entry is not None and entry.is_coming:
            return NotReady(f"the model is being loaded: {name}", retry_after_s=1)
        reason = "it is no longer there" if entry is None else entry.failure
        if name == self.default:
            return NotReady(f"the default model '{name}' is not loaded: {reason}", retry_after_s=1)
        return self.unknown(name, f"is not served: {reason}")
