"""Videos through a client, frame by frame: a video of pictures out, or a folder of label maps.

PyAV reads and writes the files; it comes with the extra ``video``. Frames keep their times and are turned upright.
There is no sound.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.client.answer import Answer
from service.client.client import AsyncClient
from service.client.errors import MissingExtra, UnreadableVideo, UnwritableVideo
from service.client.jobs import Job
from service.client.options import Format, Parameters

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# H.264 as players of all kinds show it, at a quality that hides no border.
_CODEC, _PIXEL_FORMAT, _OPTIONS = "libx264", "yuv420p", {"crf": "20"}
_DEFAULT_RATE = Fraction(25)
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of a video.

    Attributes:
        rate: Frames a second.
        time_base: Seconds of a tick.
        frames: How many frames there are; 0 if the file does not say.
    """

    rate: Fraction
    time_base: Fraction
    frames: int


class Writer(Protocol):
    """Takes the answers of a video in the order of its frames."""

    def add(self, answer: Answer, ticks: int) -> None:
        """Take the answer of the frame that is shown at a time."""

    def close(self) -> None:
        """Finish the files."""


async def segment_video(
    job: Job,
    client: AsyncClient,
    answer_format: Format,
    parameters: Parameters,
    *,
    concurrency: int,
    on_start: Callable[[int], object],
    on_frame: Callable[[], object],
) -> None:
    """Segment a video; the result is complete or absent.

    Args:
        job: The video, and the file or folder of the result.
        client: Whom to ask.
        answer_format: ``labels`` gives a folder of PNG files, a picture a video.
        parameters: Of every request.
        concurrency: Frames that are with the service at once.
        on_start: Called with the number of frames, 0 if it is not known.
        on_frame: Called after each frame.

    Raises:
        ClientError: PyAV is missing, the file is not a video, the service refuses a frame, or the result cannot be
            written.
    """
    partial = job.target.with_name(f".partial-{job.target.name}")
    job.target.parent.mkdir(parents=True, exist_ok=True)
    _remove(partial)  # of a call that was killed
    waiting: deque[tuple[int, asyncio.Task[Answer]]] = deque()
    try:
        with closing(read_frames(job.source)) as frames:
            timing = cast(Timing, await _in_a_thread(next, frames))
            on_start(timing.frames)
            writer = LabelMaps(partial) if answer_format == "labels" else PictureVideo(partial, timing)
            with closing(writer):
                while True:
                    frame = cast("tuple[int, Pixels] | None", await _in_a_thread(next, frames, None))
                    if frame is not None:
                        ask = client.segment(frame[1], answer_format, **parameters)
                        waiting.append((frame[0], asyncio.create_task(ask)))
                    while waiting and (frame is None or len(waiting) >= concurrency):
                        ticks, task = waiting.popleft()
                        answer = await task
                        answer.check(answer_format)
                        await _in_a_thread(writer.add, answer, ticks)
                        on_frame()
                    if frame is None:
                        break
        _replace(partial, job.target)
    finally:
        for _, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)
        _remove(partial)


async def _in_a_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call. A cancellation waits for its end: what it uses cannot be closed before."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait((work,))
        raise


def read_frames(path: Path) -> Generator[Timing | tuple[int, Pixels]]:
    """Give the timing of a video, then ticks and upright RGB pixels of each frame."""
    av = _pyav()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UnreadableVideo(f"{path} has no pictures")
            stream: VideoStream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = stream.average_rate or _DEFAULT_RATE
            time_base = stream.time_base or 1 / rate
            yield Timing(rate, time_base, stream.frames)
            for number, frame in enumerate(container.decode(stream)):
                ticks = frame.pts if frame.pts is not None else round(number / rate / time_base)
                yield ticks, upright(frame)
    except av.FFmpegError as error:
        raise UnreadableVideo(f"{path} cannot be read as a video: {error.strerror}") from error


def upright(frame: VideoFrame) -> Pixels:
    """(H, W, 3) uint8 RGB as players show it; the file states a turn in degrees counterclockwise."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


class LabelMaps:
    """A folder of PNG files, ``000000.png`` for the first frame."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        folder.mkdir()

    def add(self, answer: Answer, ticks: int) -> None:  # noqa: ARG002
        """Write the label map as the service sent it."""
        (self._folder / f"{self._count:06d}.png").write_bytes(answer.content)
        self._count += 1

    def close(self) -> None:
        """Do nothing: every file is complete."""


class PictureVideo:
    """An MP4 file of pictures."""

    def __init__(self, path: Path, timing: Timing) -> None:
        self._timing = timing
        self._last: int | None = None
        with _writing():
            self._container: OutputContainer = _pyav().open(str(path), "w", format="mp4")
        self._stream: VideoStream | None = None

    def add(self, answer: Answer, ticks: int) -> None:
        """Encode a picture.

        Raises:
            UnexpectedAnswer: The answer is no picture.
            UnwritableVideo: Its time is not after the one before, or the file cannot be written.
        """
        pixels = _with_even_sides(np.asarray(Image.fromarray(answer.pixels()).convert("RGB")))
        if self._last is not None and ticks <= self._last:
            before, now = (f"{float(time * self._timing.time_base):.3f}" for time in (self._last, ticks))
            raise UnwritableVideo(f"a frame at {now} s follows one at {before} s; --format labels takes such a video")
        self._last = ticks
        with _writing():
            if self._stream is None:
                self._stream = self._open_stream(pixels)
            frame = _pyav().VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = ticks, self._timing.time_base
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder holds, and the index.

        Raises:
            UnwritableVideo: The file cannot be written.
        """
        with _writing():
            try:
                if self._stream is not None:
                    self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()

    def _open_stream(self, pixels: Pixels) -> VideoStream:
        stream = cast("VideoStream", self._container.add_stream(_CODEC, rate=self._timing.rate, options=dict(_OPTIONS)))
        stream.height, stream.width, _ = pixels.shape
        stream.pix_fmt = _PIXEL_FORMAT
        stream.codec_context.time_base = self._timing.time_base
        return stream


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except _pyav().FFmpegError as error:
        raise UnwritableVideo(f"the video cannot be written: {error.strerror}") from error


def _with_even_sides(pixels: Pixels) -> Pixels:
    """Repeat the last row or column of odd sides: colours are stored for two by two pixels."""
    height, width, _ = pixels.shape
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _replace(partial: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    partial.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _pyav() -> Any:
    try:
        import av  # noqa: PLC0415  an extra
    except ImportError:
        raise MissingExtra("a video needs PyAV, which comes with the extra: pip install '.[video]'") from None
    return av
