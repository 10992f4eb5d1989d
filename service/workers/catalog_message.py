"""The models that serve, as the engine process reports them to workers: JSON of all, sent again at every change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from service.model_directory.manifest import GraphInfo, Manifest, in_bf16, parse_graph, parse_manifest

StartState = Literal["starting", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class ModelNews:
    """A version that serves.

    Attributes:
        number: Of the version, in messages; never used again by the same engine process.
        manifest: The model.
        graph: The one of its graphs that runs.
        engine_name: The runtime that it runs on.
        max_batch_size: Most images of a batch.
        down: Reason why its engine does not work; empty while it works.
        unfused_attentions: Attentions of its engine that are not recognised as fused.
    """

    number: int
    manifest: Manifest
    graph: GraphInfo
    engine_name: str
    max_batch_size: int
    down: str
    unfused_attentions: int = 0

    @property
    def is_bf16(self) -> bool:
        """True for the float32 graph of the manifest, computed in bfloat16."""
        return self.graph.precision == "bf16"

    def pack(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "number": self.number,
            "manifest": asdict(self.manifest),
            "graph": {**asdict(self.graph), "precision": "fp32" if self.is_bf16 else self.graph.precision},
            "is_bf16": self.is_bf16,
            "engine_name": self.engine_name,
            "max_batch_size": self.max_batch_size,
            "down": self.down,
            "unfused_attentions": self.unfused_attentions,
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> ModelNews:
        """The value of ``pack``."""
        graph = parse_graph(packed["graph"])
        return cls(
            packed["number"],
            parse_manifest(packed["manifest"]),
            in_bf16(graph) if packed["is_bf16"] else graph,
            packed["engine_name"],
            packed["max_batch_size"],
            packed["down"],
            packed["unfused_attentions"],
        )


@dataclass(frozen=True, slots=True)
class EntryNews:
    """A model name; see ``CatalogEntry``.

    Attributes:
        newest: The newest version that was found.
        is_coming: True if a version is about to serve.
        failure: The reason why no version serves.
        serving: The version that serves, if one does.
    """

    newest: str
    is_coming: bool
    failure: str
    serving: ModelNews | None


@dataclass(frozen=True, slots=True)
class CatalogNews:
    """All models.

    Attributes:
        default: Name of the default model.
        state: Of the start.
        failure: Why the start failed.
        entries: The models by name.
    """

    default: str
    state: StartState
    failure: str = ""
    entries: Mapping[str, EntryNews] = field(default_factory=dict)

    def pack(self) -> dict[str, Any]:
        """As JSON."""
        entries = {
            name: {
                "newest": entry.newest,
                "is_coming": entry.is_coming,
                "failure": entry.failure,
                "serving": None if entry.serving is None else entry.serving.pack(),
            }
            for name, entry in self.entries.items()
        }
        return {"default": self.default, "state": self.state, "failure": self.failure, "entries": entries}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> CatalogNews:
        """The value of ``pack``."""
        entries = {
            name: EntryNews(
                entry["newest"],
                entry["is_coming"],
                entry["failure"],
                None if entry["serving"] is None else ModelNews.unpack(entry["serving"]),
            )
            for name, entry in packed["entries"].items()
        }
        return cls(packed["default"], packed["state"], packed["failure"], entries)
