"""The catalog crosses from the engine process to workers as JSON, and arrives as it was."""

from __future__ import annotations

import json

import pytest

from service.model_directory.manifest import Manifest, in_bf16
from service.workers.catalog_message import CatalogNews, EntryNews, ModelNews


@pytest.mark.parametrize("bf16", [False, True])
def test_a_catalog_arrives_as_it_was(bf16: bool, manifest: Manifest) -> None:
    graph = in_bf16(manifest.graph) if bf16 else manifest.graph
    serving = ModelNews(3, manifest, graph, "tensorrt", 8, "stuck", unfused_attentions=2)
    entries = {"street": EntryNews("1.2.3", True, "", serving), "night": EntryNews("1.0.0", False, "no file", None)}
    news = CatalogNews("street", "ready", "", entries)
    assert CatalogNews.unpack(json.loads(json.dumps(news.pack()))) == news
