"""API keys: who is let in, what is said to the others, and how keys change while the service runs."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from service.http.api_keys import ApiKeys, ApiKeysError, parse_api_keys
from service.http.app import create_app
from service.http.auth import is_loopback, is_management, is_open
from service.model_directory.manifest import Manifest
from service.settings import Settings
from tests.support.api import Api, Serving
from tests.support.clock import Clock
from tests.support.exchange import Exchange
from tests.support.fake_engine import FakeEngine
from tests.support.pictures import Solid

pytestmark = pytest.mark.anyio


KEY, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
async def guarded(serving: Serving) -> AsyncIterator[Api]:
    async with serving(api_keys=f"ci:{KEY}, phone:sha256:{hashlib.sha256(OTHER.encode()).hexdigest()}") as api:
        yield api


async def segment(api: Api, data: bytes, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.http.post("/segment", content=data, headers={"Content-Type": "image/png", **sent})


async def test_no_key_is_answered_401_with_the_way_to_send_one(guarded: Api, solid: Solid) -> None:
    response = await segment(guarded, solid(128))
    guarded.check_problem(response, 401, "unauthorized", "Authorization: Bearer", "X-API-Key")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"bearer  {OTHER} "},
        {"X_API_Key": KEY},
        {"X_API_Key": OTHER, "Authorization": "Basic Zm9vOmJhcg=="},
        {"X_API_Key": KEY, "Authorization": "Bearer of-the-gateway"},
    ],
)
async def test_valid_key_is_let_in(guarded: Api, solid: Solid, headers: dict[str, str]) -> None:
    assert (await segment(guarded, solid(128), **headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"X_API_Key": f"ci:{KEY}"},
        {"X_API_Key": hashlib.sha256(OTHER.encode()).hexdigest()},
        {"X_API_Key": "ungültig-ungültig"},
    ],
)
async def test_wrong_key_is_refused_and_not_repeated(guarded: Api, solid: Solid, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    response = await segment(guarded, solid(128), **encoded)  # type: ignore[arg-type]
    guarded.check_problem(response, 401, "unauthorized", "not valid")
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert next(iter(headers.values())) not in response.text


@pytest.mark.parametrize("headers", [{"Authorization": f"Basic {KEY}"}, {"Authorization": KEY}, {"X_API_Key": ""}])
async def test_other_schemes_and_empty_keys_are_no_key(guarded: Api, solid: Solid, headers: dict[str, str]) -> None:
    response = await segment(guarded, solid(128), **headers)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"])
async def test_health_and_metrics_need_no_key(guarded: Api, path: str) -> None:
    assert (await guarded.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/labels", "/models", "/v2", "/v2/models/brightness", "/no-such-path", "/healthz/"])
async def test_everything_else_needs_a_key(guarded: Api, path: str) -> None:
    assert (await guarded.get(path)).status_code == 401
    assert (await guarded.get(path, **{"X-API-Key": KEY})).status_code != 401


async def test_without_keys_everybody_may_segment(api: Api, solid: Solid) -> None:
    assert (await segment(api, solid(128))).status_code == 200


@pytest.mark.parametrize("path", ["/v2/repository/models/brightness/load", "/v2/repository/index", "/v2/repository"])
async def test_management_is_forbidden_to_all_while_no_key_is_set(api: Api, path: str) -> None:
    response = await api.http.post(path, headers={"X-API-Key": KEY})
    assert response.status_code == 403
    assert "--api-keys-file" in response.text
    assert "ECENET_API_KEYS" in response.text


async def test_management_needs_a_key(guarded: Api) -> None:
    path = "/v2/repository/models/brightness/load"
    assert (await guarded.http.post(path)).status_code == 401
    assert (await guarded.http.post(path, headers={"X-API-Key": KEY})).status_code not in {401, 403}


async def test_openapi_tells_what_needs_a_key(guarded: Api, api: Api) -> None:
    paths = (await guarded.get("/openapi.json")).json()["paths"]
    assert paths["/segment"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert "401" in paths["/segment"]["post"]["responses"]
    assert "security" not in paths["/healthz"]["get"]
    assert "securitySchemes" not in (await api.get("/openapi.json")).json()["components"]


def test_only_the_management_folder_is_management() -> None:
    assert is_management("/v2/repository/index")
    assert not is_management("/v2/repository2")
    assert not is_open("/static")
    assert not is_open("/v2/health/live/x")


async def test_refused_body_is_not_read(
    engine: FakeEngine, manifest: Manifest, exchange: type[Exchange], solid: Solid
) -> None:
    app = create_app(Settings(codec_threads=1, api_keys=SecretStr(f"ci:{KEY}")), engine, manifest)
    refused = exchange(app, {"content-type": "image/png"}, solid(128))
    await refused.run()
    assert (refused.status, refused.received) == (401, 0)


async def test_access_line_names_the_owner_and_no_key(
    guarded: Api, solid: Solid, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        await segment(guarded, solid(128), X_API_Key=KEY)
        await segment(guarded, solid(128), X_API_Key=KEY + "wrong")
    lines = [record for record in caplog.records if record.name == "service.http.request_context"]
    assert [vars(line).get("api_key") for line in lines] == ["ci", None]
    assert [vars(line)["status"] for line in lines] == [200, 401]
    assert not any(KEY in str(vars(record)) for record in caplog.records if record.name.startswith("service"))


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", 0), ("::1", 0), ("localhost", 0), ("0.0.0.0", 1)])
def test_open_service_on_a_public_address_is_warned_of_once(
    engine: FakeEngine, manifest: Manifest, caplog: pytest.LogCaptureFixture, host: str, warned: int
) -> None:
    create_app(Settings(host=host, codec_threads=1), engine, manifest)
    create_app(Settings(host=host, codec_threads=1, api_keys=SecretStr(f"ci:{KEY}")), engine, manifest)
    assert [(record.levelname, host in record.getMessage()) for record in caplog.records] == [
        ("WARNING", True)
    ] * warned


def test_loopback_is_told_from_other_addresses() -> None:
    assert [is_loopback(host) for host in ("127.8.9.1", "::1", "localhost")] == [True] * 3
    assert [is_loopback(host) for host in ("", "::", "192.168.0.1", "example.org")] == [False] * 4


def test_keys_are_read_from_lines_with_comments() -> None:
    digest = hashlib.sha256(OTHER.encode()).hexdigest()
    keys = parse_api_keys(f"# the keys\n\n  ci:{KEY}  \nci:sha256:{digest.upper()}\n", "keys.txt")
    assert [key.name for key in keys] == ["ci", "ci"]
    assert [key.digest.hex() for key in keys] == [hashlib.sha256(KEY.encode()).hexdigest(), digest]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["keys.txt", "no API key"]),
        ("# ci:0123456789abcdef", ["no API key"]),
        (f"ci:{KEY}\nsecretsecretsecret", ["line 2 of keys.txt", "NAME:KEY"]),
        (":secretsecretsecret", ["line 1", "NAME:KEY"]),
        ("c i:secretsecretsecret", ["line 1", "NAME:KEY"]),
        ("ci:secret", ["line 1", "6 characters", "16", "openssl rand -hex 32"]),
        ("ci:secretsecret secret", ["line 1", "visible ASCII"]),
        ("ci:sha256:secret", ["line 1", "64 hexadecimal"]),
        (f"ci:{KEY}\nother:{KEY}", ["line 2", "repeats the key", "'ci'"]),
    ],
)
def test_broken_keys_are_told_by_line_and_never_shown(text: str, words: list[str]) -> None:
    with pytest.raises(ApiKeysError) as failure:
        parse_api_keys(text, "keys.txt")
    assert all(word in str(failure.value) for word in words), str(failure.value)
    assert "secret" not in str(failure.value)
    assert KEY not in str(failure.value)


def test_digest_is_not_shown_by_repr() -> None:
    (key,) = parse_api_keys(f"ci:{KEY}", "keys.txt")
    assert repr(key) == "ApiKey(name='ci')"


def test_changed_file_counts_after_a_second_and_the_old_key_ends(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text(f"ci:{KEY}")
    keys = ApiKeys(file=file, clock=clock)
    file.write_text(f"ci:{OTHER}")
    clock.now = 0.9
    assert (keys.owner(KEY.encode()), keys.owner(OTHER.encode())) == ("ci", None)
    clock.now = 1.0
    assert (keys.owner(KEY.encode()), keys.owner(OTHER.encode())) == (None, "ci")


def test_kubernetes_swap_of_links_is_noticed(tmp_path: Path) -> None:
    """A mounted secret is a link to a file below a link to a folder, and the latter is replaced."""
    for version, key in (("v1", KEY), ("v2", OTHER)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys").write_text(f"ci:{key}")
        os.utime(tmp_path / version / "keys", (1, 1))
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "keys").symlink_to("data/keys")
    clock = Clock()
    keys = ApiKeys(file=tmp_path / "keys", clock=clock)
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").replace(tmp_path / "data")
    clock.now = 2.0
    assert (keys.owner(KEY.encode()), keys.owner(OTHER.encode())) == (None, "ci")


@pytest.mark.parametrize("content", [None, b"", b"ci:short", b"\xff\xfe", b"#" * (2**20 + 1)])
def test_broken_file_keeps_the_old_keys_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text(f"ci:{KEY}")
    keys = ApiKeys(file=file, clock=clock)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    for clock.now in (2.0, 4.0, 6.0):
        assert keys.owner(KEY.encode()) == "ci"
    (line,) = caplog.records
    assert line.levelname == "ERROR"
    assert str(file) in line.getMessage()
    assert "its 1 earlier keys stay valid" in line.getMessage()
    file.write_text(f"ci:{OTHER}")
    clock.now = 8.0
    assert keys.owner(KEY.encode()) is None


def test_fixed_keys_and_those_of_the_file_are_all_valid(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"phone:{OTHER}")
    keys = ApiKeys(parse_api_keys(f"ci:{KEY}", "here"), tmp_path / "keys")
    assert [keys.owner(key.encode()) for key in (KEY, OTHER, "")] == ["ci", "phone", None]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"api_keys": "ci:short-secret"}, ["entry 1 of ECENET_API_KEYS", "12 characters"]),
        ({"api_keys_file": "/no/such/file"}, ["/no/such/file", "No such file"]),
    ],
)
def test_keys_that_cannot_be_used_stop_the_start(
    engine: FakeEngine, manifest: Manifest, settings: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ApiKeysError) as failure:
        create_app(Settings(codec_threads=1, **settings), engine, manifest)  # type: ignore[arg-type]
    assert all(word in str(failure.value) for word in words)
