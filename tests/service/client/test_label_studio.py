"""Label Studio asks for predictions as its documents say: images come from it alone, regions fit the project."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.client import AsyncClient, label_studio
from service.client.cli import main
from service.client.label_studio import Images, create_backend
from service.client.options import Parameters
from tests.support.api import Serving
from tests.support.limits import HANG_S
from tests.support.pictures import Png
from tests.support.replies import MakeAsyncClient

pytestmark = pytest.mark.anyio

CONFIG = """<View>
  <Image name="photo" value="$picture"/>
  <PolygonLabels name="region" toName="photo">
    <Label value="dark"/><Label value="bright" background="red"/>
  </PolygonLabels>
</View>"""
STUDIO = "https://labels.example/"


class Studio:
    """A Label Studio that has one image.

    Attributes:
        tokens: ``Authorization`` of each request for the image.
    """

    def __init__(self, image: bytes) -> None:
        self.tokens: list[str] = []
        self._image = image

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh":
            return httpx.Response(200, json={"access": "fresh"})
        self.tokens.append(request.headers["authorization"])
        found = request.url.path == "/data/upload/1/a b.png"
        return httpx.Response(200, content=self._image) if found else httpx.Response(404)


Ask = Callable[..., Any]


@pytest.fixture
async def ask(serving: Serving, png: Png) -> Any:
    """Asks a backend for tasks with these addresses; gives the answer and the tokens that Label Studio saw."""
    async with serving() as api:

        async def predict(
            *addresses: str, key: str = "legacy", config: str = CONFIG, parameters: Parameters | None = None
        ) -> tuple[httpx.Response, list[str]]:
            studio = Studio(png())
            transport = httpx.ASGITransport(api.app)
            async with (
                httpx.AsyncClient(transport=transport) as service,
                httpx.AsyncClient(transport=httpx.MockTransport(studio), base_url=STUDIO) as http,
            ):
                client = AsyncClient("http://test", http=service)
                app = create_backend(client, Images(http, key), parameters or {})
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as backend:
                    tasks = [{"id": number, "data": {"picture": address}} for number, address in enumerate(addresses)]
                    question = {"tasks": tasks, "label_config": config, "project": "1.17", "params": {"context": None}}
                    return await backend.post("/predict", json=question), studio.tokens

        yield predict


async def test_regions_have_the_names_and_labels_of_the_project(ask: Ask) -> None:
    response, tokens = await ask("/data/upload/1/a%20b.png", STUDIO + "data/upload/1/a%20b.png")
    assert tokens == ["Token legacy"] * 2
    first, second = response.json()["results"]
    assert first == second
    assert first["model_version"] == "brightness 1.2.3"
    assert [it["value"]["polygonlabels"] for it in first["result"]] == [["dark"], ["bright"]]
    for result in first["result"]:
        assert (result["from_name"], result["to_name"], result["type"]) == ("region", "photo", "polygonlabels")
        assert (result["original_width"], result["original_height"]) == (96, 32)
    dark = np.array(first["result"][0]["value"]["points"])
    assert dark.min(0).tolist() == [0, 0]
    assert dark[:, 1].max() == 100


async def test_a_label_is_known_by_its_alias_too(ask: Ask) -> None:
    config = CONFIG.replace('value="dark"', 'value="night" alias="dark"')
    response, _ = await ask("/data/upload/1/a%20b.png", config=config)
    assert [it["value"]["polygonlabels"] for it in response.json()["results"][0]["result"]] == [["dark"], ["bright"]]


async def test_a_personal_token_is_turned_into_access(ask: Ask) -> None:
    _, tokens = await ask("/data/upload/1/a%20b.png", key="header.payload.signature")
    assert tokens == ["Bearer fresh"]


async def test_parameters_of_the_command_line_are_those_of_the_requests(ask: Ask) -> None:
    response, _ = await ask("/data/upload/1/a%20b.png", parameters={"classes": ["bright"]})
    assert [it["value"]["polygonlabels"] for it in response.json()["results"][0]["result"]] == [["bright"]]


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("http://labels.example/data/upload/1/a%20b.png", 400, "is not on https://labels.example"),
        ("https://elsewhere.example/a.png", 400, "is not on https://labels.example"),
        ("//elsewhere.example/a.png", 400, "is not on https://labels.example"),
        ("s3://bucket/a.png", 400, "is not on https://labels.example"),
        ("/data/upload/1/absent.png", 502, "404"),
        ("http://[::1", 502, "Invalid port: ':1'"),
    ],
)
async def test_images_elsewhere_are_not_fetched(ask: Ask, address: str, status: int, words: str) -> None:
    response, tokens = await ask(address)
    assert (response.status_code, words in response.json()["detail"]) == (status, True)
    assert len(tokens) == (words == "404")


@pytest.mark.parametrize("config", ["<View/>", "no XML", '<View><PolygonLabels name="a" toName="b"/></View>'])
async def test_a_project_without_polygons_is_told(ask: Ask, config: str) -> None:
    response, _ = await ask("/data/upload/1/a%20b.png", config=config)
    assert response.status_code == 400
    assert "no <PolygonLabels> on an <Image>" in response.json()["detail"]


async def test_health_and_setup_answer(async_client: MakeAsyncClient) -> None:
    client = async_client(lambda _: httpx.Response(500))
    transport = httpx.ASGITransport(create_backend(client, Images(httpx.AsyncClient(), ""), {}))
    async with httpx.AsyncClient(transport=transport, base_url="http://backend") as backend:
        assert (await backend.get("/health")).json()["status"] == "UP"
        setup = {"project": "1", "schema": CONFIG, "hostname": "", "access_token": ""}
        assert (await backend.post("/setup", json=setup)).json() == {"model_version": "ecenet"}


def test_it_is_at_most_a_hundred_lines() -> None:
    assert len(Path(label_studio.__file__).read_text().splitlines()) <= 100


def test_the_command_serves_until_it_is_stopped() -> None:
    command = [sys.executable, "-m", "service.client.cli", "--label-studio", STUDIO, "--listen", "127.0.0.1:0"]
    with subprocess.Popen([*command, "--url", "http://127.0.0.1:9"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "connect http://127.0.0.1:0 as a model of the project in Label Studio\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(HANG_S) in {0, 130}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "is '', expected http://HOST[:PORT] or https://HOST[:PORT]"),
        ("localhost:8080", "is 'localhost:8080', expected http://HOST[:PORT]"),
        ("http://host:99999", "is 'http://host:99999', expected http://HOST[:PORT]"),
        ("http://[::1", "is 'http://[::1': Invalid port: ':1'"),
    ],
)
def test_an_address_without_sense_ends_the_command(
    address: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--label-studio", address, "--listen", "127.0.0.1:0", "--url", "http://host"]) == 1
    assert f"ecenet-segment: --label-studio {words}" in capsys.readouterr().err


def test_a_key_that_cannot_be_read_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--label-studio", STUDIO, "--listen", "127.0.0.1:0", "--url", "http://host"]
    assert main([*command, "--api-key-file", str(tmp_path / "key")]) == 1
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "IMAGE and -o DIR are required, or --label-studio URL"),
        (["a.jpg"], "IMAGE and -o DIR are required"),
        (["--label-studio", STUDIO, "--listen", "9090"], "expected HOST:PORT"),
    ],
)
def test_what_is_missing_is_told(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert words in capsys.readouterr().err
