"""Videos in, videos and label maps out: every frame at its time, and nothing half done."""

from __future__ import annotations

import asyncio
import builtins
import io
import threading
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.client import video
from service.client.answer import Answer
from service.client.cli import main
from service.client.errors import MissingExtra, Refused, UnexpectedAnswer, UnreadableVideo, UnwritableVideo
from service.client.jobs import Job
from tests.support.limits import HANG_S
from tests.support.replies import MakeAsyncClient

av = pytest.importorskip("av")
LEVELS = [0, 128, 255, 128, 0, 255]
TICKS = [0, 3, 4, 10, 11, 12]  # of a thirtieth of a second


def write_video(path: Path, size: tuple[int, int] = (64, 96)) -> Path:
    """A video of one grey level a frame, at irregular times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for level, ticks in zip(LEVELS, TICKS, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = ticks, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_video(path: Path) -> tuple[list[float], list[NDArray[np.uint8]]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [float(frame.pts * frame.time_base) for frame in frames], [
        frame.to_ndarray(format="rgb24") for frame in frames
    ]


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_label_maps_of_every_frame_lie_in_a_folder(tiny_model_dir: Path, tmp_path: Path) -> None:
    source = write_video(tmp_path / "drive.mp4")
    assert main([str(source), "-o", str(tmp_path / "out"), "--model-dir", str(tiny_model_dir)]) == 0
    files = sorted((tmp_path / "out" / "drive.mp4.labels").iterdir())
    assert [file.name for file in files] == [f"{number:06d}.png" for number in range(6)]
    labels = [np.unique(np.asarray(Image.open(file))).tolist() for file in files]
    assert labels == [[0], [1], [2], [1], [0], [2]]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["drive.mp4.labels"]


def test_label_maps_of_an_earlier_call_are_replaced(tiny_model_dir: Path, tmp_path: Path) -> None:
    source = write_video(tmp_path / "drive.mp4")
    folder = tmp_path / "out" / "drive.mp4.labels"
    folder.mkdir(parents=True)
    (folder / "000099.png").write_bytes(b"old")
    command = [str(source), "-o", str(tmp_path / "out"), "--model-dir", str(tiny_model_dir)]
    assert main(command) == 0
    assert [file.name for file in folder.iterdir()] == ["000099.png"]
    assert main([*command, "--overwrite"]) == 0
    assert sorted(file.name for file in folder.iterdir()) == [f"{number:06d}.png" for number in range(6)]


def test_a_file_of_sound_alone_is_told(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableVideo, match="has no pictures"):
        next(video.read_frames(path))


def test_a_video_of_pictures_keeps_size_and_times(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_video(tmp_path / "drive.mp4")
    common = [str(source), "-o", str(tmp_path / "out"), "--model-dir", str(tiny_model_dir), "--format", "color"]
    assert main(common) == 0
    times, frames = read_video(tmp_path / "out" / "drive.mp4.color.mp4")
    assert times == pytest.approx([ticks / 30 for ticks in TICKS], abs=1e-3)
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 6
    colours = {0: (10, 20, 30), 128: (40, 50, 60), 255: (70, 80, 90)}
    for level, frame in zip(LEVELS, frames, strict=True):
        np.testing.assert_allclose(frame[32, 48], colours[level], atol=6)
    assert main(common) == 0
    assert "1 there already" in capsys.readouterr().err


async def segmented(
    source: Path, target: Path, service: Any, async_client: MakeAsyncClient, answer_format: Any = "overlay"
) -> list[int]:
    totals: list[int] = []
    async with async_client(service) as client:
        job = Job(source, target, source.name)
        await video.segment_video(
            job, client, answer_format, {}, concurrency=3, on_start=totals.append, on_frame=lambda: totals.append(-1)
        )
    return totals


@pytest.mark.anyio
async def test_frames_are_asked_for_at_once_and_written_in_order(tmp_path: Path, async_client: MakeAsyncClient) -> None:
    inside, most = 0, 0
    three_at_once = asyncio.Event()

    async def service(request: httpx.Request) -> httpx.Response:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 3:
            three_at_once.set()
        await three_at_once.wait()
        inside -= 1
        level = int(np.asarray(Image.open(io.BytesIO(request.content)))[0, 0, 0])
        return httpx.Response(200, content=png(np.full((31, 45), level, np.uint8)))

    source = write_video(tmp_path / "drive.mp4")
    progress = await segmented(source, tmp_path / "out.mp4", service, async_client)
    assert progress == [6, *[-1] * 6]
    assert most == 3
    _, frames = read_video(tmp_path / "out.mp4")
    assert [frame.shape for frame in frames] == [(32, 46, 3)] * 6
    assert [round(float(frame.mean()) / 127) for frame in frames] == [0, 1, 2, 1, 0, 2]


@pytest.mark.anyio
async def test_a_call_that_is_cancelled_while_a_frame_is_read_leaves_nothing(
    tmp_path: Path, async_client: MakeAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_reading, may_end = threading.Event(), threading.Event()

    def read_slowly(_path: Path) -> Iterator[video.Timing | tuple[int, NDArray[np.uint8]]]:
        yield video.Timing(Fraction(1), Fraction(1), 1)
        is_reading.set()
        assert may_end.wait(HANG_S)
        yield 0, np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(video, "read_frames", read_slowly)
    work = asyncio.create_task(
        segmented(tmp_path / "drive.mp4", tmp_path / "out" / "x", lambda _: httpx.Response(400), async_client)
    )
    assert await asyncio.to_thread(is_reading.wait, HANG_S)
    work.cancel()
    asyncio.get_running_loop().call_later(0.01, may_end.set)
    with pytest.raises(asyncio.CancelledError):
        await work
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.anyio
@pytest.mark.parametrize("answer_format", ["labels", "overlay"])
async def test_a_refused_frame_leaves_nothing(
    tmp_path: Path, async_client: MakeAsyncClient, answer_format: str
) -> None:
    answered = 0

    def service(request: httpx.Request) -> httpx.Response:
        nonlocal answered
        answered += 1
        return httpx.Response(200, content=png(np.zeros((4, 4), np.uint8))) if answered < 4 else httpx.Response(400)

    source = write_video(tmp_path / "drive.mp4")
    with pytest.raises(Refused, match="400"):
        await segmented(source, tmp_path / "out" / "x", service, async_client, answer_format)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.anyio
@pytest.mark.parametrize(("answer_format", "left"), [("labels", "folder"), ("overlay", "file"), ("overlay", "folder")])
async def test_what_a_killed_call_left_is_no_obstacle(
    tmp_path: Path, async_client: MakeAsyncClient, answer_format: str, left: str
) -> None:
    partial = tmp_path / "out" / ".partial-x"
    if left == "folder":
        partial.mkdir(parents=True)
        (partial / "000000.png").write_bytes(b"half")
    else:
        partial.parent.mkdir()
        partial.write_bytes(b"half")
    answer = httpx.Response(200, content=png(np.zeros((4, 4), np.uint8)))
    source = write_video(tmp_path / "drive.mp4")
    await segmented(source, tmp_path / "out" / "x", lambda _: answer, async_client, answer_format)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]


@pytest.mark.anyio
@pytest.mark.parametrize("answer_format", ["labels", "overlay"])
@pytest.mark.parametrize("body", [b"<html>log in</html>", png(np.zeros((4, 4), np.uint8))[:-5]])
async def test_frames_of_something_else_leave_nothing(
    tmp_path: Path, async_client: MakeAsyncClient, answer_format: str, body: bytes
) -> None:
    source = write_video(tmp_path / "drive.mp4")
    with pytest.raises(UnexpectedAnswer, match=f"answered no {answer_format}: {len(body)} bytes"):
        await segmented(
            source, tmp_path / "out" / "x", lambda _: httpx.Response(200, content=body), async_client, answer_format
        )
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.anyio
async def test_frames_whose_times_go_back_are_told(
    tmp_path: Path, async_client: MakeAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def frames(_: Path) -> Any:
        yield video.Timing(Fraction(30), Fraction(1, 30), 3)
        yield from ((ticks, np.zeros((4, 4, 3), np.uint8)) for ticks in (0, 6, 3))

    monkeypatch.setattr(video, "read_frames", frames)
    answer = httpx.Response(200, content=png(np.zeros((4, 4), np.uint8)))
    reason = r"a frame at 0\.100 s follows one at 0\.200 s; --format labels takes such a video"
    with pytest.raises(UnwritableVideo, match=reason):
        await segmented(tmp_path / "drive.mp4", tmp_path / "out" / "x", lambda _: answer, async_client)
    assert list((tmp_path / "out").iterdir()) == []
    await segmented(tmp_path / "drive.mp4", tmp_path / "out" / "x", lambda _: answer, async_client, "labels")
    assert len(list((tmp_path / "out" / "x").iterdir())) == 3


@pytest.mark.parametrize(
    ("path", "reason"), [("absent/a.mp4", "No such file or directory"), ("full.mp4", "No space left on device")]
)
def test_a_video_that_cannot_be_written_is_told(path: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "full.mp4").symlink_to("/dev/full")  # what cannot be written is removed: here the link
    timing = video.Timing(Fraction(30), Fraction(1, 30), 1)
    answer = Answer("http://host", png(np.zeros((4, 4), np.uint8)), "image/png", None, None, {})
    with (
        pytest.raises(UnwritableVideo, match=f"the video cannot be written: {reason}"),
        closing(video.PictureVideo(tmp_path / path, timing)) as writer,
    ):
        writer.add(answer, 0)


def test_frames_are_turned_upright() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, axis=2)
    turned = {
        degrees: video.upright(SimpleNamespace(rotation=degrees, to_ndarray=lambda **_: pixels))[..., 0].tolist()  # type: ignore[arg-type]
        for degrees in (0, 90, -90, 180)
    }
    assert turned == {
        0: [[0, 1, 2], [3, 4, 5]],
        90: [[2, 5], [1, 4], [0, 3]],
        -90: [[3, 0], [4, 1], [5, 2]],
        180: [[5, 4, 3], [2, 1, 0]],
    }


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "cannot be read as a video: Invalid data"),
        (("--format", "json"), "a video gives labels, color, overlay, confidence, not json"),
    ],
)
def test_what_cannot_be_done_is_told(
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    reason: str,
) -> None:
    (tmp_path / "drive.mp4").write_bytes(b"nothing")
    command = [str(tmp_path / "drive.mp4"), "-o", str(tmp_path / "out"), "--model-dir", str(tiny_model_dir), *options]
    assert main(command) == 1
    assert reason in capsys.readouterr().err


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return ordinary(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[video\]'"):
        next(iter(video.read_frames(Path("a.mp4"))))
