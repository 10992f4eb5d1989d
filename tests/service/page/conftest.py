"""A real server around the fake engine or the bundled model, and a headless Chromium that looks at it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from service.http.app import assemble, create_app
from service.model_directory.manifest import Manifest
from service.models.source import FoundModel, LoadedModel
from service.server import Server, bind
from service.settings import Settings

ROOT = Path(__file__).parents[3]
ARGUMENTS = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")

expect.set_options(timeout=10_000)


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
        with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as http:
            while http.get(url + "readyz").status_code != 200:
                pass
        yield Site(url, app)
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def _behind_prefix(app: FastAPI, prefix: str) -> Any:
    """As a proxy that shows the service under a prefix: the service sees its own paths."""

    async def proxied(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith(prefix + "/"), scope["path"]
            scope = {**scope, "path": scope["path"].removeprefix(prefix)}
        await app(scope, receive, send)

    return proxied


@pytest.fixture
def site(engine: Any, manifest: Manifest) -> Iterator[Callable[..., Site]]:
    """Serves the fake engine with some settings, behind a prefix if one is given."""
    with ExitStack() as stack:

        def start(prefix: str = "", **settings: Any) -> Site:
            app = create_app(Settings(codec_threads=2, drain_delay_s=0, **settings), engine, manifest)
            return stack.enter_context(serve(app, prefix))

        yield start
        engine.gate.set()


class TwoModels:
    """The fake engine under the manifest's name, and as "other" with the names of its classes turned round."""

    def __init__(self, engine: Any, manifest: Manifest) -> None:
        turned = [replace(info, name=info.name[::-1]) for info in manifest.classes]
        other = replace(manifest, name="other", version="2.0", classes=tuple(turned))
        self._engine = engine
        self._manifests = {entry.name: entry for entry in (manifest, other)}

    def find(self) -> Sequence[FoundModel]:
        return [FoundModel(entry.name, entry.version, manifest=entry) for entry in self._manifests.values()]

    def load(self, found: FoundModel) -> LoadedModel:
        return LoadedModel(self._manifests[found.name], self._engine, {1: 0.01})


@pytest.fixture
def site_of_two(engine: Any, manifest: Manifest) -> Iterator[Site]:
    """Serves two models."""
    settings = Settings(codec_threads=2, drain_delay_s=0, default_model=manifest.name)
    with serve(assemble(settings, TwoModels(engine, manifest))) as site:
        yield site
        engine.gate.set()


@pytest.fixture(scope="module")
def bundled_site() -> Iterator[Site]:
    """Serves the bundled model."""
    with serve(create_app(Settings(drain_delay_s=0))) as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens a page, and checks in the end that it met no error and asked no other host.

    Arguments are those of a browser context; ``path`` is relative to the site.
    """
    contexts: list[BrowserContext] = []
    surprises: list[str] = []

    def visit(site: Site, path: str = "", **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: surprises.append(f"error: {error}"))
        page.on("console", lambda message: surprises.append(message.text) if _is_surprise(message.text) else None)
        page.on("request", lambda request: _check_host(request.url, site, surprises))
        page.goto(site.url + path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert surprises == []


def _is_surprise(text: str) -> bool:
    return "Content Security Policy" in text or "Content-Security-Policy" in text


def _check_host(url: str, site: Site, surprises: list[str]) -> None:
    if not url.startswith((site.url, f"blob:{site.url.split('/', 3)[0]}", "data:")):
        surprises.append(f"asked {url}")
