"""Supervisor, engine process and workers: what becomes of requests and processes when one of them is killed."""

from __future__ import annotations

import io
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.service.workers.conftest import Service, StartService
from tests.support import plain_http
from tests.support.brightness_model import LEVELS, WriteModel


def picture(level: int) -> bytes:
    """A PNG of one brightness."""
    file = io.BytesIO()
    Image.new("RGB", (64, 32), (level, level, level)).save(file, "PNG")
    return file.getvalue()


def label_of(response: httpx.Response) -> int:
    labels = np.asarray(Image.open(io.BytesIO(response.content)))
    assert labels.min() == labels.max()
    return int(labels[0, 0])


PICTURES = [picture(int(level)) for level in LEVELS]


def segment(service: Service, kind: int) -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return plain_http.post(service.url + "/segment", content=PICTURES[kind], headers=headers)


def test_images_of_all_workers_are_answered_by_one_engine_process(start_service: StartService) -> None:
    with start_service() as service:
        assert len(service.workers) == 2
        with ThreadPoolExecutor(8) as threads:
            labels = list(threads.map(lambda number: label_of(segment(service, number % 3)), range(60)))
        assert labels == [number % 3 for number in range(60)]
        # A worker counts a request when its client has the answer already.
        service.until_metric('ecenet_requests_total{format="labels",model="brightness",status="200"}', 60)
        service.until_metric("ecenet_in_flight", 0)
        assert service.metric('ecenet_batch_size_sum{model="brightness"}') >= 60
        assert service.stop() == 0


def test_workers_import_no_runtime_of_an_engine(start_service: StartService) -> None:
    with start_service() as service:
        maps = {pid: Path(f"/proc/{pid}/maps").read_text(encoding="utf-8") for pid in service.children}
        assert "onnxruntime" in maps[service.engine]
        for worker in service.workers:
            assert "onnxruntime" not in maps[worker]


def test_a_killed_worker_is_replaced_and_its_requests_leave_the_counts(start_service: StartService) -> None:
    with start_service() as service:
        victim, survivor = service.workers
        address = httpx.URL(service.url)
        # A request whose body never ends holds a place in one of the workers.
        with socket.create_connection((address.host, address.port or 0)) as client:
            client.sendall(
                b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9999\r\n\r\nx"
            )
            service.until_metric("ecenet_in_flight", 1)
            for pid in (victim, survivor):
                os.kill(pid, signal.SIGKILL)
            service.until(lambda: len(service.workers) == 2 and not {victim, survivor} & set(service.workers))
            service.until(service.is_ready)
            service.until_metric("ecenet_in_flight", 0)
        assert label_of(segment(service, 2)) == 2


def test_a_worker_that_is_replaced_is_ready_until_its_end_and_so_is_the_next_one(start_service: StartService) -> None:
    with start_service("--workers", "1", "--drain-delay-s", "0.2") as service:
        (before,) = service.workers
        os.kill(before, signal.SIGINT)
        while service.workers in ([], [before]):
            with suppress(httpx.TransportError):  # of a connection whose request was not read when the worker ended
                answer = plain_http.get(service.url + "/readyz")
                assert answer.status_code == 200, answer.text
        assert plain_http.get(service.url + "/readyz").status_code == 200
        assert service.stop() == 0


def test_requests_fail_at_once_while_the_engine_process_is_started_again(start_service: StartService) -> None:
    with start_service() as service:
        before = service.engine
        assert service.metric("ecenet_engine_starts_total{}") == 1
        os.kill(before, signal.SIGSTOP)
        with ThreadPoolExecutor(4) as threads:
            waiting = [threads.submit(segment, service, 1) for _ in range(4)]
            service.until_metric("ecenet_in_flight", 4)
            os.kill(before, signal.SIGKILL)
            answers = [future.result() for future in waiting]
        assert {answer.status_code for answer in answers} == {503}
        assert all(answer.headers["Retry-After"] for answer in answers)
        assert plain_http.get(service.url + "/healthz").status_code == 200
        service.until(service.is_ready)
        assert service.engine != before
        assert service.metric("ecenet_engine_starts_total{}") == 2
        assert label_of(segment(service, 0)) == 0


def test_a_frozen_engine_process_is_replaced(start_service: StartService) -> None:
    with start_service("--process-timeout-s", "5") as service:
        before = service.engine
        os.kill(before, signal.SIGSTOP)
        assert segment(service, 1).status_code == 503
        service.until(service.is_ready)
        assert service.engine != before
        assert label_of(segment(service, 0)) == 0


def test_what_was_loaded_and_unloaded_stays_so_in_the_next_engine_process(
    start_service: StartService, write_model: WriteModel, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    for name, version in (("a", "1.0.0"), ("a", "2.0.0"), ("b", "1.0.0"), ("c", "1.0.0")):
        write_model(models / f"{name}-{version}", name=name, version=version)
    before = {("a", "1.0.0"): "READY", ("a", "2.0.0"): "UNAVAILABLE"}
    key = "0123456789abcdef"
    keys = tmp_path / "keys"
    keys.write_text(f"test:{key}\n", encoding="utf-8")
    with start_service("--model-dir", str(models), "--api-keys-file", str(keys)) as service:

        def post(path: str, body: object = None) -> httpx.Response:
            return plain_http.post(f"{service.url}/v2/repository/{path}", json=body, headers={"X-API-Key": key})

        def states() -> dict[tuple[str, str], str]:
            answer = post("index")
            entries = answer.json() if answer.status_code == 200 else []
            return {(entry["name"], entry["version"]): entry["state"] for entry in entries}

        def change(name: str, what: str, **body: object) -> None:
            answer = post(f"models/{name}/{what}", body)
            assert answer.status_code == 200, answer.text

        def restart() -> None:
            engine = service.engine
            os.kill(engine, signal.SIGKILL)
            service.until(lambda: engine not in service.children and len(service.children) == 3)

        change("a", "load", parameters={"version": "1.0.0"})
        change("b", "unload")
        restart()
        service.until(service.is_ready)
        service.until(lambda: states() == {**before, ("b", "1.0.0"): "UNAVAILABLE", ("c", "1.0.0"): "READY"})
        change("a", "unload")
        change("b", "load")
        restart()
        others = {("b", "1.0.0"): "READY", ("c", "1.0.0"): "READY"}
        service.until(lambda: states() == dict.fromkeys(before, "UNAVAILABLE") | others)
        assert not service.is_ready()
        change("a", "load")
        assert service.is_ready()
        assert states() == {("a", "1.0.0"): "UNAVAILABLE", ("a", "2.0.0"): "READY", **others}


def test_an_engine_process_that_never_serves_ends_the_service(start_service: StartService, tmp_path: Path) -> None:
    with start_service() as service:
        (graph,) = (tmp_path / "brightness").glob("*.onnx")
        graph.write_bytes(b"no graph")
        os.kill(service.engine, signal.SIGKILL)
        assert service.process.wait() == 1


def test_nothing_is_left_when_the_supervisor_is_killed(start_service: StartService) -> None:
    segments = set(Path("/dev/shm").iterdir())
    with start_service() as service:
        children = service.children
        assert len(children) == 3
        service.stop(signal.SIGKILL)
        service.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
        assert set(Path("/dev/shm").iterdir()) <= segments


def test_restarts_leave_no_handles_behind(start_service: StartService) -> None:
    def handles() -> list[int]:
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (service.process.pid, service.engine)]

    def replace(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        service.until(lambda: pid not in service.children and len(service.children) == 3)
        service.until(service.is_ready)

    with start_service() as service:
        label_of(segment(service, 0))
        replace(service.workers[0])
        before = handles()
        for _ in range(5):
            replace(service.workers[0])
            label_of(segment(service, 1))
        # One is of a worker that still starts; a leak would be of five.
        service.until(lambda: all(now <= then + 1 for now, then in zip(handles(), before, strict=True)))


def test_limits_are_those_of_the_whole_service(start_service: StartService) -> None:
    with start_service("--max-requests-in-flight", "3") as service:
        os.kill(service.engine, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(12) as threads:
                first = [threads.submit(segment, service, 1) for _ in range(3)]
                service.until_metric("ecenet_in_flight", 3)
                more = [threads.submit(segment, service, 1).result() for _ in range(6)]
                assert [answer.status_code for answer in more] == [503] * 6
                os.kill(service.engine, signal.SIGCONT)
                assert [answer.result().status_code for answer in first] == [200] * 3
        finally:
            os.kill(service.engine, signal.SIGCONT)


@pytest.mark.parametrize("to_all", [False, True])
def test_a_drain_answers_what_is_inside(start_service: StartService, *, to_all: bool) -> None:
    """The supervisor alone gets the signal, or all processes do, as from systemd."""
    with start_service("--drain-timeout-s", "60") as service:
        os.kill(service.engine, signal.SIGSTOP)
        with ThreadPoolExecutor(2) as threads:
            answers = [threads.submit(segment, service, 2) for _ in range(2)]
            service.until_metric("ecenet_in_flight", 2)
            for pid in (service.process.pid, *(service.children if to_all else ())):
                os.kill(pid, signal.SIGTERM)
            service.until(lambda: not service.is_ready())
            os.kill(service.engine, signal.SIGCONT)
            assert [label_of(answer.result()) for answer in answers] == [2, 2]
        assert service.process.wait() == 0


@pytest.mark.parametrize("seed", [1])
def test_chaos_gives_nobody_a_wrong_answer_and_loses_no_slot(start_service: StartService, seed: int) -> None:
    """Processes are killed at random under load: every answer is right, every request ends, all places come back."""
    random = np.random.default_rng(seed)
    counts = {"answered": 0, "refused": 0, "broken": 0}
    lock, over = threading.Lock(), threading.Event()
    sent = [0]

    def client(number: int) -> None:
        kinds = np.random.default_rng((seed, number))
        while not over.wait(0.01):
            kind = int(kinds.integers(3))
            with lock:
                sent[0] += 1
            try:
                response = segment(service, kind)
            except httpx.TransportError:
                outcome = "broken"
                time.sleep(0.01)
            else:
                outcome = "answered" if response.status_code == 200 else "refused"
                assert response.status_code in (200, 503)
                if outcome == "answered":
                    assert label_of(response) == kind
            with lock:
                counts[outcome] += 1

    with start_service() as service:
        with ThreadPoolExecutor(6) as threads:
            clients = [threads.submit(client, number) for number in range(6)]
            for _ in range(8):
                time.sleep(float(random.uniform(0.2, 0.8)))
                alive = service.children
                os.kill(int(random.choice(alive)), signal.SIGKILL)
                if random.random() < 0.5:
                    service.until(service.is_ready)
            over.set()
            for future in clients:
                future.result()
        service.until(service.is_ready)
        assert sum(counts.values()) == sent[0]
        assert counts["answered"] > 0
        service.until_metric("ecenet_in_flight", 0)
        service.until_metric("ecenet_in_flight_pixels", 0)
        # As many requests as there are places at once: a slot that was lost would be missed.
        with ThreadPoolExecutor(64) as threads:
            labels = list(threads.map(lambda number: label_of(segment(service, number % 3)), range(128)))
        assert labels == [number % 3 for number in range(128)]
