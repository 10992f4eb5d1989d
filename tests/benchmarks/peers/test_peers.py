"""The comparison with other servers: the work is ours, and each scenario tells a good server from a bad one."""

from __future__ import annotations

import io
import json
import signal
import struct
import sys
import textwrap
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.peers import run, table
from benchmarks.peers.peers import OURS, PEERS, Call, Peer, form_call, triton_answer, triton_call
from benchmarks.peers.running import Exam, PeerError, RunningPeer, exam_of, running
from benchmarks.peers.scenarios import STOP_LIMIT_S, faults, steady
from benchmarks.peers.work import BrokenImageError, Work, images
from benchmarks.scale.readme import filled

# A server that answers every second request wrongly, breaks off on broken ones, and does not end on SIGTERM.
BAD = """
import http.server, itertools, json, os, signal, sys
from pathlib import Path

answers = [bytes.fromhex(line) for line in Path(os.environ["BAD_ANSWERS"]).read_text().split()]
signal.signal(signal.SIGTERM, signal.SIG_IGN)
numbers = itertools.count()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"broken":
            self.close_connection = True
            return
        answer = answers[int(body)] if next(numbers) % 2 == 0 else b"wrong"
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class ScriptPeer(Peer):
    """A peer whose server is a text."""

    __slots__ = ()

    def command(self, environments: Path, port: int) -> list[str]:
        return [sys.executable, "-c", self.module, str(port)]


@pytest.fixture(scope="module")
def exam() -> Exam:
    return exam_of(OURS, "sleeping")


@pytest.fixture
def ours(exam: Exam, tmp_path: Path) -> Iterator[RunningPeer]:
    with running(OURS, "sleeping", tmp_path, exam, tmp_path / "log") as server:
        yield server


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RunningPeer, Exam]]:
    answers = [f"answer {number}".encode() for number in range(4)]
    (tmp_path / "answers").write_text("\n".join(answer.hex() for answer in answers))
    monkeypatch.setenv("BAD_ANSWERS", str(tmp_path / "answers"))
    exam = Exam([Call(str(number).encode(), {}) for number in range(4)], answers, Call(b"broken", {}))
    peer = ScriptPeer("bad", "", textwrap.dedent(BAD), "/")
    with running(peer, "sleeping", tmp_path, exam, tmp_path / "log") as server:
        yield server, exam


def test_sigterm_leaves_no_server(bad: tuple[RunningPeer, Exam], tmp_path: Path) -> None:
    server, exam = bad
    with running(server.peer, "sleeping", tmp_path, exam, tmp_path / "second.log") as second:
        assert second.pids()
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert not second.pids()
    assert server.pids()  # each ends its own


def test_images_and_answers_all_differ(exam: Exam) -> None:
    assert len({call.body for call in exam.calls}) == len(set(exam.answers)) == 16
    for call, answer in zip(exam.calls, exam.answers, strict=True):
        with Image.open(io.BytesIO(call.body)) as image, Image.open(io.BytesIO(answer)) as labels:
            assert image.size == labels.size
            assert labels.mode == "P"


def test_broken_image_is_told() -> None:
    work = Work("sleeping")
    with pytest.raises(BrokenImageError, match="truncated or corrupt"):
        work.prepare(images(1)[0][:2000])


def test_this_service_answers_all_rightly_and_loses_nothing(ours: RunningPeer, exam: Exam) -> None:
    measured = steady(ours, exam, clients=4, seconds=1)
    assert measured.wrong == 0
    assert measured.images_per_s > 0
    assert 5 <= measured.p50_ms <= measured.p99_ms  # the engine sleeps for 5 ms at least
    assert measured.cpu_ms > 0
    assert measured.memory_mib > 50
    seen = faults(ours, exam, requests=40, burst=100, hang_ups=20, in_flight=8)
    assert (seen.good, seen.good_lost, seen.broken_refused) == (36, 0, 1.0)
    assert seen.burst_right >= 64  # max_requests_in_flight
    assert (seen.burst_right + seen.burst_refused, seen.burst_failed) == (100, 0)
    assert (seen.stop_right, seen.stop_failed) == (8, 0)
    assert seen.stop_s < STOP_LIMIT_S
    assert ours.pids() == []


def test_bad_server_is_seen_through(bad: tuple[RunningPeer, Exam], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.scenarios.STOP_LIMIT_S", 0.5)
    server, exam = bad
    measured = steady(server, exam, clients=2, seconds=0.5)
    right = round(measured.images_per_s * 0.5)
    assert measured.wrong > 0
    assert abs(measured.wrong - right) <= 0.2 * right + 4
    seen = faults(server, exam, requests=40, burst=20, hang_ups=4, in_flight=4)
    assert seen.good == 36
    assert 17 <= seen.good_lost <= 19
    assert seen.broken_refused == 0
    assert (seen.burst_right, seen.burst_refused, seen.burst_failed) == (10, 0, 10)
    assert (seen.stop_right, seen.stop_failed, seen.stop_s) == (2, 2, 0.5)
    assert len(server.pids()) == 1


def test_server_that_ends_is_an_error_with_what_it_said(exam: Exam, tmp_path: Path) -> None:
    peer = ScriptPeer("short-lived", "", "raise SystemExit('no room for it')", "/")
    with (
        pytest.raises(PeerError, match=r"short-lived has not answered.*\nno room for it"),
        running(peer, "sleeping", tmp_path, exam, tmp_path / "log"),
    ):
        pass


def test_form_holds_the_file() -> None:
    call = form_call(b"\xff\xd8 image \r\n")
    message = message_from_bytes(f"Content-Type: {call.headers['Content-Type']}\r\n\r\n".encode() + call.body)
    parts = message.get_payload()
    assert isinstance(parts, list)
    (part,) = parts
    assert isinstance(part, type(message))
    assert part.get_param("name", header="content-disposition") == "file"
    assert part.get_filename() == "image.jpg"
    assert b"\xff\xd8 image \r\n" in call.body


def test_triton_call_is_that_of_the_binary_protocol() -> None:
    call = triton_call(b"image")
    length = int(call.headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(call.body[:length])["inputs"]
    assert tensor["parameters"]["binary_data_size"] == len(call.body) - length == 9
    assert call.body[length:] == struct.pack("<I", 5) + b"image"
    png = b"\x89PNG\r\n\x1a\n and so on"
    assert triton_answer(b'{"outputs": []}' + struct.pack("<I", len(png)) + png) == png
    assert triton_answer(b'{"error": "none"}') == b""


def test_each_server_is_pinned_and_has_its_program() -> None:
    for peer in PEERS:
        assert (Path(run.__file__).parent / "servers" / f"{peer.module}.py").is_file()
        assert (peer is OURS) == (not peer.requirement)
        assert peer is OURS or "==" in peer.requirement


def test_readme_holds_the_tables_of_the_results_that_are_kept() -> None:
    text, parts = table.README.read_text(encoding="utf-8"), table.parts()
    assert filled(text, parts) == text, "python -m benchmarks.peers.table"
    content = json.loads(run.RESULTS.read_text(encoding="utf-8"))
    assert [row["peer"] for row in content["faults"]] == [peer.name for peer in PEERS]
    assert content["requirements"] == {peer.name: peer.requirement for peer in PEERS}
    assert all(row["wrong"] == 0 for row in content["load"] if row["peer"] == OURS.name)
