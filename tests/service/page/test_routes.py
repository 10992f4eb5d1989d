"""Answers of ``/``, ``/docs`` and their files, without a browser."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from service import page
from tests.support.api import Api

pytestmark = pytest.mark.anyio

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def test_browsers_get_the_page_and_others_get_json(api: Api) -> None:
    answer = await api.get("/", accept=BROWSER)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["vary"] == "Accept"
    assert 'data-max-image-bytes="4096" data-max-image-pixels="100000"' in answer.text
    for accept in ("*/*", "application/json", ""):
        assert (await api.get("/", accept=accept)).json()["docs"] == "/docs"


async def test_policy_names_no_other_host(api: Api) -> None:
    for path in ("/", "/docs", "/static/page.js"):
        headers = (await api.get(path, accept=BROWSER)).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'"
        assert "script-src" not in policy
        assert all(set(sources.split()) <= {"'self'", "'none'", "blob:", "data:"} for sources in policy.values())
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_every_file_of_a_page_is_there_by_a_relative_address(api: Api, path: str) -> None:
    text = (await api.get(path, accept=BROWSER)).text
    addresses = re.findall(r'(?:href|src)="([^"#]+)"', text)
    assert len(addresses) >= 4
    for address in addresses:
        assert not re.match(r"/|\w+:", address)
        assert (await api.get(f"/{address}")).status_code == 200


async def test_the_wheel_has_three_small_example_pictures(api: Api) -> None:
    folder = Path(page.__file__).parent
    pictures = sorted((folder / "static" / "examples").glob("*.jpg"))
    assert [path.name for path in pictures] == ["junction.jpg", "steps.jpg", "street.jpg"]
    assert sum(path.stat().st_size for path in pictures) < 300_000
    configuration = tomllib.loads((folder.parents[1] / "pyproject.toml").read_text())
    patterns = configuration["tool"]["setuptools"]["package-data"]["service.page"]
    packed = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    assert {path for path in folder.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}} == packed
    for path in pictures:
        answer = await api.get(f"/static/examples/{path.name}")
        assert answer.content == path.read_bytes()


async def test_files_are_asked_for_again_and_not_sent_again(api: Api) -> None:
    first = await api.get("/static/page.js")
    assert first.headers["content-type"].startswith("text/javascript")
    assert first.headers["cache-control"] == "no-cache"
    again = await api.get("/static/page.js", **{"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("path", ["/static/absent.js", "/static/../routes.py", "/static/%2e%2e/routes.py", "/static/"])
async def test_nothing_else_is_served(api: Api, path: str) -> None:
    api.check_problem(await api.get(path), 404, "not-found")


async def test_other_pages_of_the_framework_are_gone(api: Api) -> None:
    assert (await api.get("/redoc")).status_code == 404
