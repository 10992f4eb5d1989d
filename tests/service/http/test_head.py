"""HEAD on a real server: the status and the headers of GET, without a body."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from service.http.app import create_app
from service.model_directory.manifest import Manifest
from service.settings import Settings
from tests.support.fake_engine import FakeEngine
from tests.support.site import Site, serve

KEY = "a-long-enough-key-for-head"


@pytest.fixture
def site(engine: FakeEngine, manifest: Manifest) -> Iterator[Site]:
    settings = Settings(codec_threads=1, drain_delay_s=0, api_keys=f"head:{KEY}")  # type: ignore[arg-type]
    with serve(create_app(settings, engine, manifest)) as site:
        yield site
        engine.gate.set()


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/labels", "/docs", "/openapi.json", "/static/page.css"])
def test_head_is_get_without_a_body(site: Site, path: str) -> None:
    with httpx.Client(base_url=site.url, headers={"X-API-Key": KEY}) as client:
        head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


def test_head_is_refused_where_get_is(site: Site) -> None:
    with httpx.Client(base_url=site.url) as client:
        assert client.head("/labels").status_code == 401
        assert client.head("/segment", headers={"X-API-Key": KEY}).status_code == 405
        assert client.head("/nowhere", headers={"X-API-Key": KEY}).status_code == 404


def test_a_refused_method_names_head_beside_get(site: Site) -> None:
    with httpx.Client(base_url=site.url, headers={"X-API-Key": KEY}) as client:
        allowed = {path: client.put(path).headers["allow"] for path in ("/healthz", "/static/page.css", "/segment")}
    assert allowed == {"/healthz": "GET, HEAD", "/static/page.css": "GET, HEAD", "/segment": "POST"}


def test_the_connection_is_kept_after_head(site: Site) -> None:
    with httpx.Client(base_url=site.url, limits=httpx.Limits(max_connections=1)) as client:
        assert [client.request(method, "/healthz").status_code for method in ("HEAD", "GET", "HEAD")] == [200] * 3
