"""Tags of answers: what is in them, 304 without the model, and answers that are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.answers.cache import answer_tag
from service.http.app import create_app
from service.http.etag import format_tag, parse_tags
from service.model_directory.manifest import Manifest
from service.settings import Settings
from tests.support.api import Api, Running, Serving
from tests.support.brightness_model import Infer
from tests.support.fake_engine import FakeEngine
from tests.support.pictures import Solid

POISON = 201

PARAMETERS: list[dict[str, str]] = [
    {},
    {"palette": "none"},
    {"classes": "dark"},
    {"classes": "grey"},
    {"size": "model"},
    {"background": "black"},
    {"format": "color"},
    {"format": "overlay"},
    {"format": "overlay", "alpha": "0.25"},
    {"format": "json"},
    {"format": "json", "rle": "true"},
]


def test_tag_tells_where_its_parts_end() -> None:
    tags = {answer_tag(b"ab", "c"), answer_tag(b"a", "bc"), answer_tag(b"ab", "c", ""), answer_tag(b"ab")}
    assert len(tags) == 4
    assert answer_tag(b"ab", "c") == answer_tag(b"ab", "c")


@pytest.mark.parametrize(
    ("header", "tags"),
    [
        ("", set()),
        ("*", set()),
        ("unquoted", set()),
        ('"a"', {"a"}),
        ('W/"a"', {"a"}),
        ('"a", W/"b","c,d"', {"a", "b", "c,d"}),
    ],
)
def test_if_none_match_is_read(header: str, tags: set[str]) -> None:
    assert parse_tags(header) == tags


def test_weak_tags_are_marked() -> None:
    assert (format_tag("a", weak=False), format_tag("a", weak=True)) == ('"a"', 'W/"a"')


async def ask(api: Api, data: bytes, tag: str | None = None, **parameters: str) -> Any:
    headers = {"Content-Type": "image/png"} | ({} if tag is None else {"If-None-Match": tag})
    return await api.http.post("/segment", params=parameters, content=data, headers=headers)


@pytest.mark.anyio
async def test_known_answer_is_304_without_the_model(engine: FakeEngine, api: Api, solid: Solid) -> None:
    first = await ask(api, solid(9))
    tag = first.headers["etag"]
    assert tag.startswith('"')
    assert first.headers["x-model-version"] == "1.2.3"
    engine.shut()  # a request that came to the engine would hang
    second = await ask(api, solid(9), f'"other", {tag}')
    assert (second.status_code, second.content) == (304, b"")
    assert second.headers["etag"] == tag
    assert second.headers["x-model-version"] == "1.2.3"
    assert "content-type" not in second.headers
    assert await api.metric('ecenet_requests_total{format="labels",status="304"}') == 1
    assert await api.metric("ecenet_request_seconds_count") == 1


@pytest.mark.anyio
async def test_lines_of_a_list_header_are_one_list(api: Api, solid: Solid) -> None:
    tag = (await ask(api, solid(9))).headers["etag"]
    lines = [("Content-Type", "image/png"), ("If-None-Match", '"other"'), ("If-None-Match", tag)]
    for _ in range(2):  # a query string that is seen first, and one that is known
        answer = await api.http.post("/segment", content=solid(9), headers=lines)
        assert answer.status_code == 304
    lines = [("Content-Type", "image/png"), ("Accept", "text/html"), ("Accept", "application/json")]
    answer = await api.http.post("/segment", content=solid(9), headers=lines)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.anyio
async def test_other_image_or_parameters_are_answered_anew(api: Api, solid: Solid) -> None:
    tags = [(await ask(api, solid(9), **parameters)).headers["etag"] for parameters in PARAMETERS]
    tags.append((await ask(api, solid(10))).headers["etag"])
    assert len({tag.removeprefix("W/") for tag in tags}) == len(tags)
    for tag in tags[1:]:
        assert (await ask(api, solid(9), tag)).status_code == 200


@pytest.mark.anyio
async def test_tag_depends_on_model_graph_and_runtime(
    brightness_logits: Infer, running: Running, solid: Solid, manifest: Manifest
) -> None:
    async def tag(manifest: Manifest = manifest, **attributes: Any) -> str:
        engine = FakeEngine(brightness_logits)
        for name, value in attributes.items():
            setattr(engine, name, value)
        async with running(create_app(Settings(codec_threads=1), engine, manifest)) as api:
            header: str = (await ask(api, solid(9))).headers["etag"]
            return header

    first = await tag()
    others = {
        await tag(replace(manifest, name="other")),
        await tag(replace(manifest, version="1.2.4")),
        await tag(replace(manifest, classes=tuple(replace(one, name=f"other {one.name}") for one in manifest.classes))),
        await tag(graph=replace(FakeEngine.graph, sha256="1" * 64)),
        await tag(name="other"),
    }
    assert await tag() == first
    assert len(others - {first}) == 5


@pytest.mark.anyio
async def test_equal_values_of_parameters_have_one_tag(api: Api, solid: Solid) -> None:
    async def tag(**parameters: str) -> str:
        header: str = (await ask(api, solid(9), **parameters)).headers["etag"]
        return header

    assert await tag() == await tag(format="labels") == await tag(background="ffffff", alpha="0.50")
    assert await tag(classes="bright,dark") == await tag(classes="0,2,0")


@pytest.mark.anyio
async def test_json_has_a_weak_tag_that_matches(api: Api, solid: Solid) -> None:
    tag = (await ask(api, solid(9), format="json")).headers["etag"]
    assert tag.startswith('W/"')
    assert (await ask(api, solid(9), tag, format="json")).status_code == 304


@pytest.mark.anyio
async def test_kept_answers_are_given_without_the_model(engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    async with serving(cache_bytes=100_000) as api:
        first = {str(p): await ask(api, solid(9), **p) for p in PARAMETERS}
        engine.shut()
        for parameters in PARAMETERS:
            again = await ask(api, solid(9), **parameters)
            assert again.status_code == 200
            assert again.content == first[str(parameters)].content
            assert again.headers["etag"] == first[str(parameters)].headers["etag"]
        assert engine.batch_sizes == []


@pytest.mark.anyio
async def test_by_default_no_answer_is_kept(engine: FakeEngine, api: Api, solid: Solid) -> None:
    await ask(api, solid(9))
    engine.batch_sizes.clear()
    await ask(api, solid(9))
    assert engine.batch_sizes == [1]


@pytest.mark.anyio
async def test_errors_are_never_kept(engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    async with serving(cache_bytes=100_000) as api:
        logits = engine.logits
        engine.logits = lambda images: np.full((len(images), 3, 8, 16), np.nan, np.float32)
        failed = await ask(api, solid(9))
        assert failed.status_code == 500
        assert "etag" not in failed.headers
        engine.logits = logits
        assert (await ask(api, solid(9))).status_code == 200


@pytest.mark.anyio
async def test_kept_bytes_are_bounded(engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    async with serving(cache_bytes=1000) as api:
        sizes = [len((await ask(api, solid(level))).content) for level in range(40)]
        engine.batch_sizes.clear()
        kept = 0
        while not engine.batch_sizes:  # from the latest on, up to the first that the engine has to answer
            kept += 1
            await ask(api, solid(40 - kept))
        assert sum(sizes[40 - kept + 1 :]) <= 1000 < sum(sizes[40 - kept :])
