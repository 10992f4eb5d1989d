"""Several models in the real process: signals, Triton's client, and switches under load."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.support import plain_http
from tests.support.brightness_model import WriteModel
from tests.support.limits import HANG_S
from tests.support.pictures import Png

ROOT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef"
HEADERS = {"X-API-Key": KEY}
SERVICE = ["-m", "service", "--engine", "onnxruntime", "--codec-threads", "1", "--engine-threads", "1"]
GATED = ["-c", "import runpy; runpy.run_path('tests/e2e/gated_server.py', run_name='__main__')"]
# The classes of the stripes of ``png``, left to right, by version.
STRIPES = {"1.0.0": [0, 1, 2], "2.0.0": [2, 1, 0]}

Popen = subprocess.Popen[bytes]


@pytest.fixture
def root(tmp_path: Path, write_model: WriteModel) -> Path:
    """Two models; of ``street`` there are two versions, with their classes in opposite orders."""
    write_model(tmp_path / "models" / "night", name="night", version="1.0.0")
    write_model(tmp_path / "models" / "street" / "old", name="street", version="1.0.0")
    new = tmp_path / "models" / "street" / "new"
    write_model(new, name="street", version="2.0.0", levels=(255.0, 128.0, 0.0))
    return tmp_path / "models"


@contextmanager
def started(program: list[str], *arguments: str, **variables: str) -> Iterator[Popen]:
    command = [sys.executable, *program, "--port", "0", *arguments]
    environment = {**os.environ, "ECENET_API_KEYS": f"ops:{KEY}", **variables}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as popen:
        try:
            yield popen
        finally:
            popen.kill()


def line(popen: Popen) -> str:
    assert popen.stdout is not None
    return popen.stdout.readline().decode().rstrip()


def url_of(popen: Popen) -> str:
    """URL of a service, once it is ready."""
    return line(popen).rpartition(" ")[2]


@contextmanager
def serving(root: Path, *arguments: str) -> Iterator[tuple[Popen, httpx.Client]]:
    with (
        started(SERVICE, "--model-dir", str(root), "--drain-delay-s", "0", *arguments) as popen,
        httpx.Client(base_url=url_of(popen), headers=HEADERS, timeout=HANG_S) as http,
    ):
        until_served(http, night="1.0.0", street="2.0.0")
        yield popen, http


def served(http: httpx.Client) -> dict[str, str]:
    """Version by name."""
    return {model["name"]: model["version"] for model in http.get("/models").json()["models"]}


def until_served(http: httpx.Client, **versions: str) -> None:
    while served(http) != versions:
        pass


def stripes(response: httpx.Response) -> list[int]:
    """The classes of the three stripes of ``png``."""
    assert response.status_code == 200, response.text
    labels = np.asarray(Image.open(io.BytesIO(response.content)))
    return [int(value) for value in labels[16, [16, 48, 80]]]


def test_tritons_client_lists_loads_and_unloads(root: Path) -> None:
    with serving(root) as (_, http), InferenceServerClient(str(http.base_url).removeprefix("http://")) as client:
        with pytest.raises(InferenceServerException, match="API key is required"):
            client.load_model("street")
        index = client.get_model_repository_index(headers=HEADERS)
        assert [(entry["name"], entry["version"], entry["state"]) for entry in index] == [
            ("night", "1.0.0", "READY"),
            ("street", "2.0.0", "READY"),
            ("street", "1.0.0", "UNAVAILABLE"),
        ]
        client.unload_model("street", headers=HEADERS)
        assert not client.is_model_ready("street", headers=HEADERS)
        assert client.is_model_ready("night", headers=HEADERS)
        assert served(http) == {"night": "1.0.0"}
        client.load_model("street", headers=HEADERS)
        assert client.is_model_ready("street", "2.0.0", headers=HEADERS)
        assert client.get_model_metadata("street", headers=HEADERS)["versions"] == ["2.0.0"]
        with pytest.raises(InferenceServerException, match="'day' is not there"):
            client.load_model("day", headers=HEADERS)
        with pytest.raises(InferenceServerException, match="'config' of a load belongs to an extension"):
            client.load_model("street", headers=HEADERS, config="{}")


def test_switches_under_load_lose_no_request(root: Path, png: Png) -> None:
    answers: list[tuple[str, list[int]]] = []
    is_over = threading.Event()

    def ask(http: httpx.Client) -> None:
        while not is_over.is_set():
            response = http.post("/segment?model=street", files={"file": ("a.png", png())})
            answers.append((response.headers["x-model-version"], stripes(response)))

    with serving(root) as (_, http), ThreadPoolExecutor() as pool:
        clients = [pool.submit(ask, http) for _ in range(4)]
        try:
            for version in ("1.0.0", "2.0.0") * 10:
                before = len(answers)
                body = {"parameters": {"version": version}}
                response = http.post("/v2/repository/models/street/load", json=body)
                assert (response.status_code, response.json()["version"]) == (200, version)
                while len(answers) == before and not any(client.done() for client in clients):
                    pass
        finally:
            is_over.set()
        for client in clients:
            client.result()
        assert {version for version, _ in answers} == set(STRIPES)
        assert [answer for answer in answers if answer[1] != STRIPES[answer[0]]] == []
        assert 'ecenet_model_loads_total{model="street",result="success"} 21.0\n' in http.get("/metrics").text


def test_sighup_follows_the_disk(root: Path, write_model: WriteModel, png: Png) -> None:
    with serving(root) as (popen, http):
        write_model(root / "day", name="day", version="1")
        (write_model(root / "night2", name="night", version="2") / "model.onnx").write_bytes(b"broken")
        shutil.rmtree(root / "street" / "new")
        popen.send_signal(signal.SIGHUP)
        until_served(http, day="1", night="1.0.0", street="1.0.0")
        while 'ecenet_model_loads_total{model="night",result="failure"} 1.0\n' not in http.get("/metrics").text:
            pass
        assert http.get("/readyz").status_code == 200
        assert stripes(http.post("/segment?model=street", files={"file": ("a.png", png())})) == STRIPES["1.0.0"]
        shutil.rmtree(root / "street")
        popen.send_signal(signal.SIGHUP)
        until_served(http, day="1", night="1.0.0")
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(HANG_S) == 0


def heeds_sighup(popen: Popen) -> bool:
    """Check whether a process ignores or handles SIGHUP; until then the kernel ends it. One that is gone does not."""
    try:
        status = Path(f"/proc/{popen.pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    masks = [int(mask, 16) for mask in re.findall(r"^Sig(?:Ign|Cgt):\t(\w+)$", status, re.MULTILINE)]
    return any(mask >> (signal.SIGHUP - 1) & 1 for mask in masks)


def test_sighup_never_ends_the_process(root: Path) -> None:
    """Neither while it starts, nor while it drains."""

    def hang_up(popen: Popen) -> None:
        while popen.poll() is None:
            if heeds_sighup(popen):
                popen.send_signal(signal.SIGHUP)
            time.sleep(0.002)  # leaves the service most of a core

    with started(SERVICE, "--model-dir", str(root), "--drain-delay-s", "0.3") as popen:
        caller = threading.Thread(target=hang_up, args=(popen,))
        caller.start()
        assert plain_http.get(url_of(popen) + "/healthz").status_code == 200
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(HANG_S) == 0
        caller.join()


def loading(popen: Popen) -> tuple[str, ThreadPoolExecutor]:
    """Start a gated service and a load of its model that does not end; where it listens, and who waits for the load."""
    assert popen.stdin is not None
    assert line(popen) == "batch 1"
    popen.stdin.write(b"x")
    popen.stdin.flush()
    url = url_of(popen)
    for _ in range(3):
        line(popen)
    return url, ThreadPoolExecutor(1)


def test_a_drain_during_a_load_answers_it_and_ends(png: Png) -> None:
    with started(GATED, "--drain-delay-s", "0", GATED_LOAD="1") as popen:
        url, pool = loading(popen)
        with pool:
            load = pool.submit(plain_http.post, f"{url}/v2/repository/models/gated/load", headers=HEADERS)
            assert line(popen) == "batch 1"
            popen.send_signal(signal.SIGTERM)
            assert load.result().status_code == 503
            assert "cancelled this change" in load.result().json()["error"]
            assert popen.wait(HANG_S) == 0


def test_a_second_signal_during_a_load_ends_at_once() -> None:
    with started(GATED, "--drain-delay-s", "20", GATED_LOAD="1") as popen:
        url, pool = loading(popen)
        with pool:
            load = pool.submit(plain_http.post, f"{url}/v2/repository/models/gated/load", headers=HEADERS)
            assert line(popen) == "batch 1"
            popen.send_signal(signal.SIGTERM)
            while plain_http.get(f"{url}/readyz").status_code != 503:
                pass
            popen.send_signal(signal.SIGTERM)
            assert popen.wait(HANG_S) == 128 + signal.SIGTERM
            assert load.exception() is None or isinstance(load.exception(), httpx.TransportError)


def test_a_default_model_that_does_not_work_ends_the_start_in_one_sentence(root: Path) -> None:
    (root / "night" / "model.onnx").write_bytes(b"broken")
    command = [sys.executable, *SERVICE, "--port", "0", "--model-dir", str(root)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"ecenet-serve: {root / 'night' / 'model.onnx'} has SHA-256 ")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--default-model", "day"), 2, "--default-model is 'day'; the available models are night, street"),
        ((), 1, "hold the same version, street 2.0.0: remove one, or give it another"),
    ],
)
def test_what_cannot_be_meant_is_told_in_one_line(
    root: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    if status == 1:
        shutil.copytree(root / "street" / "new", root / "twin")
    command = [sys.executable, *SERVICE, "--port", "0", "--model-dir", str(root), *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (status, 1)
    assert words in ended.stderr
