"""The whole way of an alert: a real service, a real Prometheus, a real Alertmanager, a webhook."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

import httpx
import pytest

from tests.load_balancer.patience import until
from tests.load_balancer.replicas import SLOW, Replica, fleet
from tests.observability.shipped import alerts
from tests.observability.stack import Prometheus, Webhook, alertmanager, prometheus, webhook
from tests.support.pictures import Png

pytestmark = pytest.mark.deployment
CLIENTS = 12


class Stack:
    """A service that is watched.

    Attributes:
        service: One replica with room for two requests and a slow engine.
        prometheus: It scrapes the service.
        webhook: What operators would be told.
    """

    def __init__(self, service: Replica, prometheus: Prometheus, webhook: Webhook) -> None:
        self.service = service
        self.prometheus = prometheus
        self.webhook = webhook

    def until_evaluated(self) -> None:
        """Wait until rules have been evaluated with what was scraped."""
        recorded = "namespace_job:ecenet_requests:rate5m"
        until(lambda: self.prometheus.value(recorded) is not None, f"{recorded} is there")

    def until_state(self, alert: str, state: str | None) -> None:
        """Wait until an alert is ``pending``, ``firing``, or None of that."""
        until(lambda: self.prometheus.states().get(alert) == state, f"{alert} is {state}")

    def until_told(self, alert: str, status: str) -> dict[str, dict[str, str]]:
        """Wait until an alert has arrived; gives it."""
        until(lambda: bool(self.webhook.alerts(alert, status)), f"{alert} arrives as {status}")
        told: dict[str, dict[str, str]] = self.webhook.alerts(alert, status)[0]
        return told


@pytest.fixture
def stack(tmp_path: Path, shared_model_dir: Path) -> Iterator[Stack]:
    service = Replica(shared_model_dir, "--max-requests-in-flight", "2", program=SLOW, SLOW_S="0.05")
    with ExitStack() as running:
        running.enter_context(fleet([service]))
        received, url = running.enter_context(webhook())
        _, address = running.enter_context(alertmanager(tmp_path, url))
        yield Stack(service, running.enter_context(prometheus(tmp_path, service.address, address)), received)


@contextmanager
def load(service: Replica, image: bytes) -> Iterator[None]:
    """Clients that send one request after the other, far more than the service has room for."""
    over = Event()

    def send() -> None:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            while not over.is_set():
                answer = client.post("/segment", content=image, headers={"Content-Type": "image/png"})
                assert answer.status_code in (200, 503), answer.text
                if answer.status_code == 503:
                    over.wait(0.2)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(send) for _ in range(CLIENTS)]
        try:
            yield
        finally:
            over.set()
    for client in clients:
        client.result()


def test_overload_is_told_and_its_end_too(stack: Stack, png: Png) -> None:
    stack.until_evaluated()
    assert stack.prometheus.states() == {}
    with load(stack.service, png()):
        stack.until_state("EcenetRejecting", "pending")
        stack.until_state("EcenetRejecting", "firing")
        told = stack.until_told("EcenetRejecting", "firing")
        refused = stack.prometheus.value("namespace_job:ecenet_requests_rejected:ratio_rate5m")
        assert refused is not None
        assert 0.05 < refused < 1
    assert told["labels"] == {"alertname": "EcenetRejecting", "job": "ecenet", "severity": "critical"}
    assert told["annotations"]["summary"] == "ecenet is overloaded and refuses requests."
    assert "was refused for want of room" in told["annotations"]["description"]
    assert told["annotations"]["runbook_url"] == alerts()["EcenetRejecting"]["annotations"]["runbook_url"]
    assert stack.webhook.messages[0]["receiver"] == "operators"
    stack.until_state("EcenetRejecting", None)
    stack.until_told("EcenetRejecting", "resolved")


def test_killed_replica_is_told(stack: Stack) -> None:
    stack.until_evaluated()
    stack.service.kill()
    told = stack.until_told("EcenetTargetDown", "firing")
    assert told["labels"]["instance"] == stack.service.address
