"""A real server around the fake engine or the bundled model, and a headless Chromium that looks at it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from service.http.app import assemble, create_app
from service.model_directory.manifest import Manifest
from service.settings import Settings
from tests.support.fake_engine import FakeEngine
from tests.support.limits import HANG_S
from tests.support.pictures import Png
from tests.support.site import Site, StartSite, TwoModels, Visit, serve

ROOT = Path(__file__).parents[3]
ARGUMENTS = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")

expect.set_options(timeout=1000 * HANG_S)


@pytest.fixture
def site(engine: FakeEngine, manifest: Manifest) -> Iterator[StartSite]:
    """Serves the fake engine with some settings, behind a prefix if one is given."""
    with ExitStack() as stack:

        def start(prefix: str = "", **settings: Any) -> Site:
            app = create_app(Settings(codec_threads=2, drain_delay_s=0, **settings), engine, manifest)
            return stack.enter_context(serve(app, prefix))

        yield start
        engine.gate.set()


@pytest.fixture
def site_of_two(engine: FakeEngine, manifest: Manifest) -> Iterator[Site]:
    """Serves two models."""
    settings = Settings(codec_threads=2, drain_delay_s=0, default_model=manifest.name)
    with serve(assemble(settings, TwoModels(engine, manifest))) as site:
        yield site
        engine.gate.set()


@pytest.fixture
def stripes(png: Png) -> bytes:
    """Dark, grey and bright, of the same width."""
    return png(240, 480)


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


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens a page, and checks in the end that it met no error and asked no other host.

    Arguments are those of a browser context; ``path`` is relative to the site. Colours change at once: axe would find
    those of a transition.
    """
    contexts: list[BrowserContext] = []
    surprises: list[str] = []

    def visit(site: Site, path: str = "", **options: Any) -> Page:
        context = browser.new_context(reduced_motion="reduce", **options)
        context.set_default_timeout(1000 * HANG_S)
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
