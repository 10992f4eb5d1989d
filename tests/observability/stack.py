"""A real Prometheus, a real Alertmanager, and a webhook that keeps what arrives; by the shipped configuration."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import yaml

from tests.load_balancer.balancer import free_port
from tests.load_balancer.patience import until
from tests.observability.quickened import at_addresses, quickened, told_at
from tests.observability.shipped import read
from tests.observability.tools import path_of

# A scrape every 375 ms, ranges and waits of 7.5 s in place of 5 minutes.
FACTOR = 40


class Prometheus:
    """A running Prometheus."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def value(self, expression: str) -> float | None:
        """Evaluate an expression now; None if it gives nothing."""
        result = self._http.get("/api/v1/query", params={"query": expression}).json()["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def states(self) -> dict[str, str]:
        """Alerts that are pending or firing, by name."""
        alerts = self._http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"]: alert["state"] for alert in alerts}


class Alertmanager:
    """A running Alertmanager."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def send(self, alerts: Sequence[dict[str, str]]) -> None:
        """Say that alerts with these labels fire."""
        self._http.post("/api/v2/alerts", json=[{"labels": labels} for labels in alerts]).raise_for_status()

    def silenced(self, job: str) -> dict[str, bool]:
        """Alerts of a job by name and instance, and whether another alert inhibits each."""
        alerts = self._http.get("/api/v2/alerts", params={"filter": f'job="{job}"'}).json()
        return {_name_of(alert["labels"]): bool(alert["status"]["inhibitedBy"]) for alert in alerts}


class Webhook:
    """Takes what Alertmanager sends.

    Attributes:
        messages: Bodies, in the order of their arrival.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def alerts(self, name: str, status: str) -> list[dict[str, Any]]:
        """Those that have arrived, ``firing`` or ``resolved``."""
        alerts = [alert for message in list(self.messages) for alert in message["alerts"]]
        return [alert for alert in alerts if alert["labels"]["alertname"] == name and alert["status"] == status]


@contextmanager
def webhook() -> Iterator[tuple[Webhook, str]]:
    """A webhook and its URL."""
    received = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield received, f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def alertmanager(folder: Path, webhook_url: str) -> Iterator[tuple[Alertmanager, str]]:
    """An Alertmanager that tells a webhook, and its address."""
    configuration = folder / "alertmanager.yaml"
    _write(configuration, told_at(quickened(read("alertmanager.yaml"), FACTOR), webhook_url))
    address = f"127.0.0.1:{free_port()}"
    arguments = [f"--config.file={configuration}", f"--storage.path={folder / 'alertmanager'}"]
    arguments += [f"--web.listen-address={address}", "--cluster.listen-address="]
    with _running("prometheus-alertmanager", arguments, address, folder) as http:
        yield Alertmanager(http), address


@contextmanager
def prometheus(folder: Path, service: str, alertmanager_address: str) -> Iterator[Prometheus]:
    """A Prometheus that scrapes one service and tells an Alertmanager."""
    _write(folder / "rules.yaml", quickened(read("rules.yaml"), FACTOR))
    configuration = folder / "prometheus.yaml"
    _write(configuration, at_addresses(quickened(read("prometheus.yaml"), FACTOR), service, alertmanager_address))
    address = f"127.0.0.1:{free_port()}"
    arguments = [f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'prometheus'}"]
    arguments += [f"--web.listen-address={address}", f"--query.lookback-delta={300_000 // FACTOR}ms"]
    with _running("prometheus", arguments, address, folder) as http:
        yield Prometheus(http)


@contextmanager
def _running(program: str, arguments: Sequence[str], address: str, folder: Path) -> Iterator[httpx.Client]:
    """A client of a program that is ready."""
    log = folder / f"{program}.log"
    with ExitStack() as stack:
        stream = stack.enter_context(log.open("wb"))
        popen = stack.enter_context(subprocess.Popen([path_of(program), *arguments], stdout=stream, stderr=stream))
        stack.callback(popen.kill)
        http = stack.enter_context(httpx.Client(base_url=f"http://{address}"))
        until(lambda: _is_ready(http), f"{program} is ready: {log}")
        yield http


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def _name_of(labels: dict[str, str]) -> str:
    return " ".join(labels[name] for name in ("alertname", "instance") if name in labels)


def _write(path: Path, document: Any) -> None:
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
