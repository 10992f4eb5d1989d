"""The shipped configurations are valid, and agree with each other and with the service; no load, no replicas."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.errors import PROBLEM_MEDIA_TYPE, DeadlineExceeded, PayloadTooLarge, Unavailable
from service.http.request_context import REQUEST_ID
from service.http.upload import FORM_OVERHEAD_BYTES
from service.inference_protocol.errors import MANAGEMENT_PATH
from service.settings import Settings
from tests.load_balancer.balancer import KINDS, Kind, command, configuration_of
from tests.load_balancer.shipped import HAPROXY, NGINX, haproxy_by_dns, nginx_by_dns, replace_text

TEXTS = {"nginx": NGINX.read_text(encoding="utf-8"), "haproxy": HAPROXY.read_text(encoding="utf-8")}
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
REPLICAS = ("127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003")
UNITS = {"ms": 0.001, "s": 1, "m": 1024 * 1024, "": 1}


def value(kind: Kind, directive: str) -> float:
    """The number of a directive that is there once: seconds or bytes."""
    (match,) = re.findall(rf"^ *{directive} (\d+)(ms|s|m|)\b", TEXTS[kind], re.MULTILINE)
    return int(match[0]) * UNITS[match[1]]


def run(kind: Kind, configuration: Path) -> subprocess.CompletedProcess[str]:
    """Let the balancer read a configuration."""
    if shutil.which(kind) is None:
        pytest.skip(f"no {kind} (Debian: nginx-light, haproxy)")
    return subprocess.run(
        command(kind, configuration, check=True), capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("kind", KINDS)
def test_balancer_accepts_the_shipped_file_with_other_addresses(kind: Kind, tmp_path: Path) -> None:
    configuration = tmp_path / "configuration"
    configuration.write_text(configuration_of(kind, REPLICAS)("127.0.0.1:9000", tmp_path), encoding="utf-8")
    result = run(kind, configuration)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[warn" not in result.stderr.lower()


def test_haproxy_accepts_the_file_as_it_is() -> None:
    result = run("haproxy", HAPROXY)
    assert result.returncode == 0, result.stderr
    assert "[WARNING]" not in result.stderr


def test_only_addresses_ports_and_paths_are_exchanged() -> None:
    nginx = configuration_of("nginx", REPLICAS[:2])("127.0.0.1:9000", Path("/folder"))
    servers = f"server {REPLICAS[0]} max_fails=0;\n        server {REPLICAS[1]} max_fails=0;"
    nginx = nginx.replace(servers, "server ecenet:8000 resolve max_fails=0;")
    assert nginx.replace("listen 127.0.0.1:9000;", "listen 8080;").replace("/folder/", "/tmp/") == TEXTS["nginx"]
    haproxy = configuration_of("haproxy", REPLICAS[:2])("unix:/folder/socket", Path("/folder"))
    servers = f"server replica1 {REPLICAS[0]}\n    server replica2 {REPLICAS[1]}"
    (template,) = re.findall("server-template .*", TEXTS["haproxy"])
    haproxy = haproxy.replace(servers, template).replace("bind unix@/folder/socket\n", "bind :8080\n")
    assert haproxy == TEXTS["haproxy"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_asked_for_at_the_name_server_of_a_test(kind: Kind) -> None:
    by_dns = {"nginx": nginx_by_dns, "haproxy": haproxy_by_dns}[kind]
    text = by_dns("127.0.0.1:5353", 9001)("127.0.0.1:9000", Path("/folder"))
    assert "127.0.0.11" not in text
    assert " ecenet:9001 " in text


def test_file_that_has_changed_is_noticed() -> None:
    with pytest.raises(ValueError, match="'listen 80;' is there 0 times, expected 1"):
        replace_text(TEXTS["nginx"], "listen 80;", "")


def test_balancers_take_every_body_that_the_service_takes() -> None:
    limit = value("nginx", "client_max_body_size")
    largest_json = DEFAULTS["max_image_bytes"] * 4 / 3 * 65 / 64 + FORM_OVERHEAD_BYTES
    assert limit > max(DEFAULTS["max_many_images_bytes"], largest_json)
    assert f"req.body_size gt {limit:.0f} " in TEXTS["haproxy"]
    for text in TEXTS.values():
        assert f"more than {limit / 1024**2:.0f} MiB" in text


def test_haproxy_can_send_an_image_again() -> None:
    room = value("haproxy", "tune.bufsize") - value("haproxy", "tune.maxrewrite")
    assert room > DEFAULTS["max_image_bytes"] + FORM_OVERHEAD_BYTES
    assert "option http-buffer-request\n" in TEXTS["haproxy"]


@pytest.mark.parametrize(("kind", "directive"), [("nginx", "proxy_read_timeout"), ("haproxy", "timeout server")])
def test_service_says_504_before_the_balancer_does(kind: Kind, directive: str) -> None:
    assert value(kind, directive) > DEFAULTS["request_timeout_s"]


def test_request_that_met_a_frozen_replica_gets_another_try() -> None:
    assert value("nginx", "proxy_next_upstream_timeout") > value("nginx", "proxy_read_timeout")


def test_balancer_ends_an_idle_connection_before_the_service_does() -> None:
    # With the word upstream before it: clients' connections have a keepalive_timeout too.
    (idle_s,) = re.findall(r"keepalive 64;\n(?:.*#.*\n)*? *keepalive_timeout (\d+)s;", TEXTS["nginx"])
    assert int(idle_s) < Settings().keep_alive_timeout_s
    assert "pool-purge-delay" not in TEXTS["haproxy"]  # its default is 5 s


def test_draining_replica_is_noticed_while_it_still_serves() -> None:
    ((interval_ms, fall),) = re.findall(r"check inter (\d+)ms fall (\d+) rise 1", TEXTS["haproxy"])
    assert int(interval_ms) * int(fall) / 1000 < DEFAULTS["drain_delay_s"]


@pytest.mark.parametrize("kind", KINDS)
def test_balancer_keeps_the_request_ids_that_the_service_takes(kind: Kind) -> None:
    assert f"^{REQUEST_ID.pattern}$" in TEXTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_operators_paths_are_not_published(kind: Kind) -> None:
    assert f" ^/(metrics|{MANAGEMENT_PATH.removeprefix('/')})(/|$) " in TEXTS[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [PayloadTooLarge, Unavailable, DeadlineExceeded])
def test_refusals_have_the_names_that_the_service_gives_them(kind: Kind, error: type[PayloadTooLarge]) -> None:
    assert re.search(rf"{error.slug}\b", TEXTS[kind])
    assert f'"{error.title}"' in TEXTS[kind]
    assert PROBLEM_MEDIA_TYPE in TEXTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_client_has_at_most_three_tries_at_replicas(kind: Kind) -> None:
    tries = value("nginx", "proxy_next_upstream_tries") if kind == "nginx" else 1 + value("haproxy", "retries")
    assert tries == 3
