"""``ecenet-segment`` as it is called: without a server, against one, again, and in vain."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.client.cli import INTERRUPTED, MAX_CONCURRENCY, main
from service.client.options import API_KEY_VARIABLE
from service.local import LocalSettings
from tests.support.brightness_model import WriteModel
from tests.support.limits import HANG_S
from tests.support.pictures import Png

# What a PNG begins and ends with.
PNG_HEAD, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


class Echo(ThreadingHTTPServer):
    """A service whose PNG has the image itself for content; keeps those waiting whose bytes are ``wait``.

    Attributes:
        received: Query and headers of each request, in the order of their arrival.
        waiting: Set when a request is kept waiting.
        release: Ends the wait.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _EchoHandler)
        self.received: list[tuple[dict[str, list[str]], dict[str, str]]] = []
        self.waiting, self.release = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _EchoHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Echo)
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append((parse_qs(urlsplit(self.path).query), headers))
        if body == b"wait":
            self.server.waiting.set()
            self.server.release.wait(HANG_S)
        refused = body.startswith(b"broken")
        self.send_response(400 if refused else 200)
        self.end_headers()
        self.wfile.write(b'{"detail": "it is broken"}' if refused else PNG_HEAD + body + PNG_END)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of images that hold text."""

    def make(**contents: str) -> Path:
        folder = tmp_path / "photos"
        for name, content in contents.items():
            path = folder / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return folder

    return make


def results(folder: Path) -> dict[str, str]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    contents = [path.read_bytes().removeprefix(PNG_HEAD).removesuffix(PNG_END).decode() for path in paths]
    return {str(path.relative_to(folder)): content for path, content in zip(paths, contents, strict=True)}


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_without_a_server_the_model_runs_here(
    tiny_model_dir: Path, png: Png, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECENET_MAX_IMAGE_BYTES", "1024")  # speaks to servers
    monkeypatch.setenv("ECENET_API_KEYS", "me:secret-key-of-a-server")
    (tmp_path / "in" / "below").mkdir(parents=True)
    (tmp_path / "in" / "a.png").write_bytes(png(64, 192))
    (tmp_path / "in" / "below" / "b.png").write_bytes(png())
    common = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model-dir", str(tiny_model_dir)]
    assert main(common) == 0
    assert main([*common, "--format", "json", "--rle"]) == 0
    labels, below = (pixels(tmp_path / "out" / name) for name in ("a.png.labels.png", "below/b.png.labels.png"))
    assert labels.shape == (64, 192)
    assert labels[0, [10, 96, 180]].tolist() == [0, 1, 2]
    assert below.shape == (32, 96)
    summary = json.loads((tmp_path / "out" / "a.png.json").read_text())
    assert summary["size"] == {"width": 192, "height": 64}
    assert [entry["name"] for entry in summary["classes"]] == ["dark", "grey", "bright"]
    assert summary["classes"][0]["rle"]["size"] == [64, 192]


def test_of_several_models_here_the_one_that_is_named_runs(
    write_model: WriteModel, png: Png, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, levels in (("night", (255.0, 128.0, 0.0)), ("street", (0.0, 128.0, 255.0))):
        write_model(tmp_path / "models" / name, name=name, levels=levels)
    (tmp_path / "a.png").write_bytes(png())
    common = [str(tmp_path / "a.png"), "--model-dir", str(tmp_path / "models")]
    for model, expected in (([], [2, 1, 0]), (["--model", "street"], [0, 1, 2])):
        out = tmp_path / f"out{len(model)}"
        assert main([*common, "-o", str(out), *model]) == 0
        assert pixels(out / "a.png.labels.png")[16, [16, 48, 80]].tolist() == expected
    assert main([*common, "-o", str(tmp_path / "out"), "--model", "day"]) == 1
    assert "the available models are night, street" in capsys.readouterr().err


def test_a_model_that_cannot_be_used_is_told(
    photos: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(a="x")
    assert main([str(folder), "-o", str(tmp_path / "out"), "--model-dir", str(tmp_path / "absent")]) == 1
    assert "absent" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_given_is_sent(
    echo: Echo, photos: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "from-the-environment")
    (tmp_path / "key").write_text("from-a-file\n")
    command = [str(photos(a="x")), "-o", str(tmp_path / "out"), "--url", echo.url, "--overwrite"]
    assert main(command) == 0
    options = "--format overlay --alpha 0.3 --classes Road,2 --size model --mode tile --background f80 --palette none"
    options += " --model night"
    more = ["--rle", "--request-timeout-ms", "900", "--api-key-file", str(tmp_path / "key")]
    assert main([*command, *options.split(), *more]) == 0
    (first, first_headers), (second, second_headers) = echo.received
    assert first == {"format": ["labels"]}
    assert first_headers["authorization"] == "Bearer from-the-environment"
    assert "x-request-timeout-ms" not in first_headers
    assert second == {
        "format": ["overlay"],
        "model": ["night"],
        "alpha": ["0.3"],
        "classes": ["Road,2"],
        "size": ["model"],
        "mode": ["tile"],
        "background": ["f80"],
        "palette": ["none"],
        "rle": ["true"],
    }
    assert second_headers["authorization"] == "Bearer from-a-file"
    assert second_headers["x-request-timeout-ms"] == "900"
    assert results(tmp_path / "out") == {"a.jpg.labels.png": "x", "a.jpg.overlay.png": "x"}


def test_what_is_there_is_skipped_until_it_shall_be_made_again(
    echo: Echo, photos: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = [str(photos(a="new", b="new")), "-o", str(out), "--url", echo.url]
    out.mkdir()
    (out / "a.jpg.labels.png").write_text("old")
    assert main(command) == 0
    assert results(out) == {"a.jpg.labels.png": "old", "b.jpg.labels.png": "new"}
    assert capsys.readouterr().err.splitlines()[-1] == "1 written, 1 there already, 0 failed, 0 not tried"
    assert main(command) == 0
    assert len(echo.received) == 1
    assert main([*command, "--overwrite"]) == 0
    assert results(out) == {"a.jpg.labels.png": "new", "b.jpg.labels.png": "new"}


def test_every_failed_file_is_named_and_the_others_are_done(
    echo: Echo, photos: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(a="x", b="broken", c="x")
    command = [str(folder), str(tmp_path / "absent.jpg"), "-o", str(tmp_path / "out"), "--url", echo.url]
    assert main(command) == 1
    told = capsys.readouterr().err
    assert f"failed: {tmp_path / 'absent.jpg'}: there is no such file or folder\n" in told
    assert f"failed: {folder / 'b.jpg'}: {echo.url}/segment answered 400 Bad Request: it is broken\n" in told
    assert told.endswith("2 written, 0 there already, 2 failed, 0 not tried\n")
    assert set(results(tmp_path / "out")) == {"a.jpg.labels.png", "c.jpg.labels.png"}


def test_a_wrong_address_is_told_at_once(
    photos: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(a="x", b="x", c="x")
    # Tried again so often, it would run into the limit of a test.
    command = [str(folder), "-o", str(tmp_path / "out"), "--url", "http://host:port", "--concurrency", "1"]
    assert main([*command, "--retries", "1000"]) == 1
    told = capsys.readouterr().err
    assert f"failed: {folder / 'a.jpg'}: http://host:port/segment cannot be reached: Invalid port: 'port'" in told
    assert told.endswith("0 written, 0 there already, 1 failed, 2 not tried\n")


@pytest.mark.parametrize("key", [b"", b"schl\xc3\xbcssel", b"\xff\xfe", b"secret\nsecond"])
def test_a_key_that_no_header_can_have_is_told_and_not_shown(
    key: bytes, photos: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(key)
    command = [str(photos(a="x")), "-o", str(tmp_path), "--url", "http://host", "--api-key-file", str(tmp_path / "key")]
    assert main(command) == 1
    assert capsys.readouterr().err == (
        f"ecenet-segment: the API key of {tmp_path / 'key'} is empty, or not one line of printable ASCII characters\n"
    )


def test_a_file_in_place_of_the_folder_of_results_is_told_before_an_image_is_sent(
    echo: Echo, photos: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine")
    assert main([str(photos(a="x")), "-o", str(tmp_path / "out"), "--url", echo.url]) == 1
    assert capsys.readouterr().err == f"ecenet-segment: -o is {tmp_path / 'out'}, which is not a folder\n"
    assert (echo.received, (tmp_path / "out").read_text()) == ([], "mine")


def test_names_as_long_as_file_systems_allow(
    echo: Echo, photos: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fits, too_long = "f" * (255 - len(".jpg.labels.png")), "t" * (255 - len(".jpg"))
    out = tmp_path / "out"
    out.mkdir()
    assert main([str(photos(**{fits: "x", too_long: "x"})), "-o", str(out), "--url", echo.url]) == 1
    assert results(out) == {f"{fits}.jpg.labels.png": "x"}
    told = capsys.readouterr().err
    assert "File name too long" in told
    assert told.endswith("1 written, 0 there already, 1 failed, 0 not tried\n")


def test_what_is_told_of_a_failure_is_one_line(
    echo: Echo, photos: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(**{"a\nfailed: b\x1b[2J": "broken"})
    assert main([str(folder), "-o", str(tmp_path / "out"), "--url", echo.url]) == 1
    told = capsys.readouterr().err.splitlines()
    assert (
        told[0]
        == rf"failed: {folder}/a\nfailed: b\x1b[2J.jpg: {echo.url}/segment answered 400 Bad Request: it is broken"
    )
    assert len(told) == 2


def test_a_key_that_cannot_be_read_is_told(
    photos: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(photos(a="x")), "-o", str(tmp_path), "--url", "http://host", "--api-key-file", str(tmp_path / "no")]
    assert main(command) == 1
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.png"], "-o DIR"),
        (["a.png", "-o", "out", "--format", "jpeg"], "invalid choice: 'jpeg'"),
        (["a.png", "-o", "out", "--concurrency", "0"], "it is 0, expected 1 or more"),
        (["a.png", "-o", "out", "--concurrency", "10001"], "it is 10001, expected at most 10000"),
        (["a.png", "-o", "out", "--retries", "-1"], "it is '-1', expected a whole number"),
        (["a.png", "-o", "out", "--timeout-s", "nan"], "it is 'nan', expected seconds above 0"),
        (["a.png", "-o", "out", "--timeout-s", "0"], "it is '0', expected seconds above 0"),
        (["a.png", "-o", "out", "--timeout-s", "soon"], "it is 'soon', expected seconds above 0"),
    ],
)
def test_a_wrong_command_line_is_told(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_a_service_here_takes_as_many_images_at_once_as_can_be_asked_for() -> None:
    assert LocalSettings(max_requests_in_flight=MAX_CONCURRENCY).max_requests_in_flight == 10_000


def test_ctrl_c_leaves_whole_results_and_the_next_call_goes_on(
    echo: Echo, photos: Callable[..., Path], tmp_path: Path
) -> None:
    folder, out = photos(a="done", b="wait", c="after"), tmp_path / "out"
    command = [str(folder), "-o", str(out), "--url", echo.url, "--concurrency", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "service.client.cli", *command], stderr=subprocess.PIPE, text=True
    ) as process:
        assert echo.waiting.wait(HANG_S)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=HANG_S)
    assert process.returncode == INTERRUPTED
    assert told.endswith("stopped; run the same command again to continue\n")
    assert "Traceback" not in told
    assert results(out) == {"a.jpg.labels.png": "done"}
    echo.release.set()
    assert main(command) == 0
    assert results(out) == {"a.jpg.labels.png": "done", "b.jpg.labels.png": "wait", "c.jpg.labels.png": "after"}
