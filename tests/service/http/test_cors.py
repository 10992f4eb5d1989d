"""Pages of other origins: none may call the service unless they are named."""

from __future__ import annotations

import pytest

from service.inference.pipeline import Pipeline
from tests.support.api import Api, Serving
from tests.support.pictures import Solid

pytestmark = pytest.mark.anyio


PAGE = "https://maps.example.org"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-request-timeout-ms",
}


async def test_closed_by_default(api: Api) -> None:
    preflight = await api.http.options("/segment", headers=PREFLIGHT)
    answer = await api.get("/healthz", Origin=PAGE)
    assert preflight.status_code == 405
    assert answer.status_code == 200
    assert not [name for response in (preflight, answer) for name in response.headers if "access-control" in name]


async def test_preflight_of_a_named_page_needs_no_key(serving: Serving) -> None:
    async with serving(cors_origins=f"http://localhost:3000, {PAGE}", api_keys="ci:0123456789abcdef") as api:
        response = await api.http.options("/segment", headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "Authorization" in response.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in response.headers
    assert response.headers["x-request-id"]


async def test_preflight_of_another_page_is_refused(serving: Serving) -> None:
    async with serving(cors_origins=PAGE) as api:
        response = await api.http.options("/segment", headers={**PREFLIGHT, "Origin": PAGE + ".evil.example"})
    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers


async def test_named_page_reads_answers_their_headers_and_refusals(serving: Serving, solid: Solid) -> None:
    async with serving(cors_origins=PAGE, api_keys="ci:0123456789abcdef") as api:
        for key, status in (("0123456789abcdef", 200), ("wrong", 401)):
            headers = {"Origin": PAGE, "X-API-Key": key, "Content-Type": "image/png"}
            response = await api.http.post("/segment", content=solid(128), headers=headers)
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == PAGE
            exposed = set(response.headers["access-control-expose-headers"].split(", "))
            assert exposed >= {"X-Request-ID", "ETag", "Server-Timing", "Retry-After", "X-Model-Version"}


@pytest.mark.parametrize(("origin", "allowed"), [(PAGE, PAGE), (PAGE + ".evil.example", None)])
async def test_named_page_alone_reads_an_unexpected_error(
    serving: Serving, solid: Solid, monkeypatch: pytest.MonkeyPatch, origin: str, allowed: str | None
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Pipeline, "segment", fail)
    async with serving(cors_origins=PAGE) as api:
        headers = {"Origin": origin, "Content-Type": "image/png"}
        response = await api.http.post("/segment", content=solid(128), headers=headers)
        api.check_problem(response, 500, "internal-error", "unexpected error")
    assert response.headers.get("access-control-allow-origin") == allowed
    assert response.headers["vary"] == "Origin"
    assert "X-Request-ID" in response.headers["access-control-expose-headers"]
    assert response.headers["x-request-id"]


async def test_all_pages_may_if_the_setting_says_so(serving: Serving) -> None:
    async with serving(cors_origins="*") as api:
        response = await api.get("/healthz", Origin=PAGE)
    assert response.headers["access-control-allow-origin"] == "*"
