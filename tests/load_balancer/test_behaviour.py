"""Further behaviour of a balancer: overload, limits, slow and broken uploads, ids, unpublished paths."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.load_balancer.balancer import KINDS, Balancer, Kind, configuration_of, free_port, running
from tests.load_balancer.patience import until
from tests.load_balancer.replicas import SLOW, Replica, fleet
from tests.load_balancer.samples import Sample, samples

pytestmark = pytest.mark.deployment

# Times that a request is sent at most.
TRIES = 3


@pytest.fixture
def sample() -> Sample:
    return samples()[1]


@pytest.fixture(scope="module")
def slow_replicas(shared_model_dir: Path) -> Iterator[Sequence[Replica]]:
    """Two replicas that take one request at a time, for a second."""
    options = ("--max-requests-in-flight", "1")
    with fleet([Replica(shared_model_dir, *options, program=SLOW, SLOW_S="1") for _ in range(2)]) as replicas:
        yield replicas


@pytest.fixture
def slow(kind: Kind, slow_replicas: Sequence[Replica], tmp_path: Path) -> Iterator[Balancer]:
    """A balancer in front of the slow ones."""
    configuration = configuration_of(kind, [replica.address for replica in slow_replicas])
    with running(kind, configuration, tmp_path / kind) as balancer:
        yield balancer


def post(balancer: Balancer, sample: Sample, **headers: str) -> httpx.Response:
    headers = {"Content-Type": sample.media_type, **{name.replace("_", "-"): text for name, text in headers.items()}}
    return httpx.post(f"{balancer.url}/segment", content=sample.body, headers=headers, timeout=60)


def head(length: int) -> bytes:
    """The head of a request by hand."""
    lines = ("POST /segment HTTP/1.1", "Host: balancer", "Content-Type: image/png", "Connection: close")
    return "\r\n".join((*lines, f"Content-Length: {length}", "", "")).encode()


def total(replicas: Sequence[Replica], name: str, *labels: str) -> float:
    return sum(replica.metric(name, *labels) for replica in replicas)


def overloads(replicas: Sequence[Replica]) -> float:
    return total(replicas, "ecenet_requests_rejected_total", 'reason="overloaded"')


def test_overload_reaches_the_client_without_a_storm(
    slow: Balancer, slow_replicas: Sequence[Replica], sample: Sample
) -> None:
    refused = overloads(slow_replicas)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: post(slow, sample), range(12)))
    refusals = [answer for answer in answers if answer.status_code == 503]
    good = [answer for answer in answers if answer.status_code == 200]
    assert len(refusals) + len(good) == 12
    assert len(good) >= 2
    assert refusals
    assert all(sample.is_answered_by(answer.content) for answer in good)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refusals)
    refused = overloads(slow_replicas) - refused
    entries = slow.entries_of(12)
    # The balancer refuses by itself only what no replica took, as on a machine that stands still for a moment.
    by_itself = {answer.json()["request_id"] for answer in refusals if answer.json()["type"] == "unavailable"}
    overloaded = [answer for answer in refusals if answer.json()["type"] == "overloaded"]
    assert len(overloaded) + len(by_itself) == len(refusals)
    assert by_itself.intersection(entry.request_id for entry in entries) == {
        entry.request_id for entry in entries if entry.is_unreached
    }
    assert 0 < len(overloaded) <= refused <= TRIES * 12
    assert max(entry.tries for entry in entries) <= TRIES
    assert post(slow, sample).status_code == 200  # none of them is thought dead


def test_client_that_hangs_up_is_noticed_by_the_replica(
    slow: Balancer, slow_replicas: Sequence[Replica], sample: Sample
) -> None:
    cancelled = total(slow_replicas, "ecenet_requests_cancelled_total")
    with slow.connect() as connection:
        connection.sendall(head(len(sample.body)) + sample.body)
        until(lambda: total(slow_replicas, "ecenet_in_flight") == 1, "the request is inside")
    until(lambda: total(slow_replicas, "ecenet_requests_cancelled_total") == cancelled + 1, "it is noticed")


def test_slow_upload_keeps_no_replica_waiting(balancer: Balancer, replicas: Sequence[Replica], sample: Sample) -> None:
    half = len(sample.body) // 2
    with balancer.connect() as connection:
        connection.sendall(head(len(sample.body)) + sample.body[:half])
        for _ in range(10):
            assert total(replicas, "ecenet_in_flight") == 0
            time.sleep(0.05)
        connection.sendall(sample.body[half:])
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert sample.is_answered_by(answer.partition(b"\r\n\r\n")[2])


def test_image_beyond_the_limit_is_refused_by_the_service(balancer: Balancer) -> None:
    answer = post(balancer, Sample(bytes(20 * 1024 * 1024 + 1), "image/png", samples()[0].labels))
    assert answer.status_code == 413
    problem = answer.json()
    assert (problem["type"], problem["value"], problem["limit"]) == ("payload-too-large", 20971521, 20971520)
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_body_beyond_all_limits_is_refused_by_the_balancer(balancer: Balancer, replicas: Sequence[Replica]) -> None:
    answered = total(replicas, "ecenet_requests_total")
    with balancer.connect() as connection:
        connection.sendall(head(65 * 1024 * 1024 + 1) + bytes(22 * 1024 * 1024))
        begin, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert begin.startswith(b"HTTP/1.1 413 ")
    problem = json.loads(body)
    assert (problem["type"], problem["status"]) == ("payload-too-large", 413)
    assert problem["detail"] == "the body has more than 65 MiB"
    assert problem["request_id"].encode() in begin
    assert total(replicas, "ecenet_requests_total") == answered


def test_broken_image_is_refused_once_and_harms_no_other(balancer: Balancer, sample: Sample) -> None:
    broken = Sample(sample.body[:60], sample.media_type, sample.labels)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda turn: post(balancer, sample if turn % 2 else broken), range(12)))
    assert [answer.status_code for answer in answers] == [400, 200] * 6
    assert {answer.json()["type"] for answer in answers[::2]} == {"not-an-image"}
    assert all(sample.is_answered_by(answer.content) for answer in answers[1::2])
    assert {entry.tries for entry in balancer.entries_of(12)} == {1}


@pytest.mark.parametrize("sent", [None, "two words", "x" * 129])
def test_request_without_a_usable_id_gets_one_that_the_logs_share(
    balancer: Balancer, sample: Sample, sent: str | None
) -> None:
    answer = post(balancer, sample, **({} if sent is None else {"X_Request_ID": sent}))
    request_id = answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f-]{32,36}", request_id)
    until(lambda: [entry.request_id for entry in balancer.entries()] == [request_id], "it is logged")


@pytest.mark.parametrize(
    "target",
    [
        "/metrics",
        "/metrics?x=1",
        "/%6detrics",
        "/v2/repository/index",
        "/v2/repository/models/brightness/load",
        "/v2/%72epository/models/brightness/load",
    ],
)
def test_what_is_for_operators_is_not_published(balancer: Balancer, target: str) -> None:
    for method in ("GET", "POST"):
        answer = httpx.request(method, balancer.url + target)
        assert answer.status_code == 404
        assert answer.json()["detail"] == "this path is not published"


@pytest.mark.parametrize("target", ["//metrics", "/./metrics", "/x/../metrics", "/metrics/", "/METRICS"])
def test_no_other_spelling_reaches_it(balancer: Balancer, target: str) -> None:
    with balancer.connect() as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").read()
    assert not answer.startswith(b"HTTP/1.1 200 ")
    assert b"ecenet_" not in answer


@pytest.mark.parametrize("kind", KINDS)
def test_absence_of_all_replicas_is_told_with_a_time_to_come_back(kind: Kind, sample: Sample, tmp_path: Path) -> None:
    nobody = [f"127.0.0.1:{free_port()}"]
    with running(kind, configuration_of(kind, nobody), tmp_path / kind) as balancer:
        answer = post(balancer, sample, X_Request_ID="mine")
        until(lambda: bool(balancer.entries()), "it is logged")
        assert [entry.is_unreached for entry in balancer.entries()] == [True]
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine"
    assert answer.json()["type"] == "unavailable"


def test_replica_that_stays_frozen_costs_time_and_no_request(
    replicas: Sequence[Replica], sample: Sample, tmp_path: Path
) -> None:
    addresses = [replica.address for replica in replicas]
    with (
        running("nginx", configuration_of("nginx", addresses), tmp_path / "nginx") as nginx,
        running("haproxy", configuration_of("haproxy", addresses), tmp_path / "haproxy") as haproxy,
        ThreadPoolExecutor(12) as pool,
    ):
        replicas[0].freeze()
        answers = list(pool.map(lambda turn: post((nginx, haproxy)[turn % 2], sample), range(12)))
    assert [answer.status_code for answer in answers] == [200] * 12
    assert all(sample.is_answered_by(answer.content) for answer in answers)
    # Two try it for 35 s before they go on to another one.
    assert max(answer.elapsed.total_seconds() for answer in answers) > 30
