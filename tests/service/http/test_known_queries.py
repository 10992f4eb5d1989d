"""Query strings that come again: what is kept of them changes no answer."""

from __future__ import annotations

import pytest

from tests.support.api import Api
from tests.support.pictures import Png, Solid

pytestmark = pytest.mark.anyio

HEADERS = {"content-type": "image/png"}


@pytest.mark.parametrize("query", ["", "format=json", "classes=dark&classes=grey", "format=overlay&alpha=0.25"])
async def test_the_second_request_is_answered_as_the_first(api: Api, png: Png, query: str) -> None:
    answers = [await api.http.post(f"/segment?{query}", content=png(32, 96), headers=HEADERS) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["etag"] for answer in answers}) == 1
    assert len({answer.headers["content-type"] for answer in answers}) == 1


async def test_a_wrong_query_is_refused_each_time(api: Api, solid: Solid) -> None:
    for _ in range(3):
        answer = await api.http.post("/segment?alpha=2", content=solid(1), headers=HEADERS)
        assert answer.status_code == 422
        assert "alpha" in answer.text


async def test_a_known_query_keeps_headers_apart(api: Api, solid: Solid) -> None:
    first = await api.http.post("/segment", content=solid(1), headers=HEADERS)
    again = await api.http.post(
        "/segment", content=solid(1), headers={**HEADERS, "if-none-match": first.headers["etag"]}
    )
    colours = await api.http.post("/segment", content=solid(1), headers={**HEADERS, "accept": "application/json"})
    refused = await api.http.post("/segment", content=solid(1), headers={**HEADERS, "x-request-timeout-ms": "0"})
    assert [again.status_code, colours.headers["content-type"], refused.status_code] == [304, "application/json", 422]


async def test_more_queries_than_are_kept_are_answered(api: Api, solid: Solid) -> None:
    first = await api.http.post("/segment?alpha=0.5", content=solid(1), headers=HEADERS)
    for number in range(300):
        await api.http.post(f"/segment?alpha=0.{number:03}", content=b"", headers=HEADERS)
    again = await api.http.post("/segment?alpha=0.5", content=solid(1), headers=HEADERS)
    assert (again.status_code, again.content) == (200, first.content)
