"""A real server on a free port, in a thread of the test's process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import httpx
from fastapi import FastAPI
from playwright.sync_api import Page
from starlette.types import ASGIApp, Receive, Scope, Send

from service.banner import bind
from service.model_directory.manifest import Manifest
from service.models.source import FoundModel, LoadedModel
from service.server import Server
from tests.support.fake_engine import FakeEngine
from tests.support.limits import HANG_S


class Site:
    """A served app.

    Attributes:
        url: Where it is, with a slash at the end.
    """

    def __init__(self, url: str, app: FastAPI) -> None:
        self.url = url
        self.app = app


@contextmanager
def serve(app: FastAPI, prefix: str = "") -> Iterator[Site]:
    bound = bind("127.0.0.1", 0)
    server = Server(app, bound)
    if prefix:
        server.config.app = _behind_prefix(app, prefix)
    # Not by ``serve_until_signal``, which listens to signals: that is for the main thread alone.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}{prefix}/"
    try:
        with httpx.Client(transport=httpx.HTTPTransport(verify=False, retries=20)) as http:
            while http.get(url + "readyz").status_code != 200:
                pass
        yield Site(url, app)
    finally:
        server.should_exit = True
        thread.join(HANG_S)
    assert not thread.is_alive()


def _behind_prefix(app: FastAPI, prefix: str) -> ASGIApp:
    """As a proxy that shows the service under a prefix: the service sees its own paths."""

    async def proxied(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith(prefix + "/"), scope["path"]
            scope = {**scope, "path": scope["path"].removeprefix(prefix)}
        await app(scope, receive, send)

    return proxied


class TwoModels:
    """The fake engine under the manifest's name, and as "other" with the names of its classes turned round."""

    def __init__(self, engine: FakeEngine, manifest: Manifest) -> None:
        turned = [replace(info, name=info.name[::-1]) for info in manifest.classes]
        other = replace(manifest, name="other", version="2.0", classes=tuple(turned))
        self._engine = engine
        self._manifests = {entry.name: entry for entry in (manifest, other)}

    def find(self) -> Sequence[FoundModel]:
        return [FoundModel(entry.name, entry.version, manifest=entry) for entry in self._manifests.values()]

    def load(self, found: FoundModel) -> LoadedModel:
        return LoadedModel(self._manifests[found.name], self._engine, {1: 0.01})


class StartSite(Protocol):
    """Serves the fake engine with some settings, behind a prefix if one is given."""

    def __call__(self, prefix: str = "", **settings: Any) -> Site: ...


class Visit(Protocol):
    """Opens a page in a context of the browser that ``options`` describe; ``path`` is relative to the site."""

    def __call__(self, site: Site, path: str = "", **options: Any) -> Page: ...
