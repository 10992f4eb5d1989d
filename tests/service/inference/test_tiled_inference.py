"""``mode=tile``: answers of the whole service, refusals, memory, and a driver that holds few windows."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.errors import EngineFailure
from service.imaging.label_map import label_map
from service.imaging.tiling import Mosaic, TilePlan, plan_tiles
from service.inference.admission import Ticket, TimeLimit
from service.inference.batcher import Batcher
from service.inference.codec_threads import CodecThreads
from service.inference.tiled_inference import TiledInference, segment_tiles
from tests.support.api import Serving
from tests.support.brightness_model import Infer
from tests.support.fake_engine import FakeEngine
from tests.support.pictures import Png, Solid

pytestmark = pytest.mark.anyio

T = TypeVar("T")


def picture(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """Grey squares of 4x4 pixels, each darkest, middle or brightest; the last row and column are cut off."""
    levels = np.array([0, 128, 255], np.uint8)
    cells = levels[np.random.default_rng(0).integers(0, 3, (-(-height // 4), -(-width // 4)))]
    grey = cells.repeat(4, 0).repeat(4, 1)[:height, :width]
    return np.repeat(grey[..., None], 3, 2)


def classes_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.searchsorted([64, 200], pixels[..., 0]).astype(np.uint8)


@pytest.mark.parametrize("size", [(70, 130), (130, 70), (31, 200)])
async def test_an_image_is_seen_at_its_own_size(size: tuple[int, int], serving: Serving) -> None:
    pixels = noise(*size)
    async with serving() as api:
        tiled = api.pixels(await api.post(picture(pixels), mode="tile"))
        resized = api.pixels(await api.post(picture(pixels)))
        summary = (await api.post(picture(pixels), mode="tile", format="json")).json()
    centres = tuple(slice(1, None, 4) for _ in size)
    assert tiled.shape == size
    np.testing.assert_array_equal(tiled[centres], classes_of(pixels)[centres])
    assert (resized[centres] == classes_of(pixels)[centres]).mean() < 0.9
    assert summary["processing"] == {
        "mode": "tile",
        "windows": {(70, 130): 3 * 3, (130, 70): 6 * 2, (31, 200): 4}[size],
        "scale_x": 1.0,
        "scale_y": 1.0,
    }
    assert [entry["pixels"] for entry in summary["classes"]] == np.bincount(tiled.ravel(), minlength=3).tolist()
    assert all(0.9 < entry["confidence"] <= 1 for entry in summary["classes"])
    assert {"decode", "queue", "infer", "post"} <= set(summary["timings_ms"])


async def test_an_image_of_one_window_is_resized(serving: Serving, png: Png) -> None:
    async with serving() as api:
        summary = (await api.post(png(16, 48), mode="tile", format="json")).json()
        np.testing.assert_array_equal(
            api.pixels(await api.post(png(16, 48), mode="tile")), api.pixels(await api.post(png(16, 48)))
        )
    assert summary["processing"] == {"mode": "resize", "windows": 1, "scale_x": 64 / 48, "scale_y": 2.0}


async def test_every_format_is_answered_of_windows(serving: Serving) -> None:
    pixels = noise(70, 130)
    async with serving() as api:

        async def ask(form: str, **parameters: str) -> NDArray[np.uint8]:
            return np.asarray(api.pixels(await api.post(picture(pixels), mode="tile", format=form, **parameters)))

        labels = await ask("labels")
        colors = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
        np.testing.assert_array_equal(await ask("color"), colors[labels])
        np.testing.assert_array_equal(await ask("overlay", alpha="0"), pixels)
        assert (await ask("confidence")).shape == (70, 130)
        kept = np.where(labels == 1, 1, 255)
        np.testing.assert_array_equal(await ask("labels", classes="grey"), kept)
        npy = await api.post(picture(pixels), mode="tile", format="npy")
        np.testing.assert_array_equal(np.load(io.BytesIO(npy.content)), labels)
        contours = (await api.post(picture(pixels), mode="tile", format="contours")).json()
        assert [feature["properties"]["pixels"] for feature in contours["features"]] == np.bincount(
            labels.ravel()
        ).tolist()


async def test_what_cannot_be_tiled_is_refused(serving: Serving, engine: FakeEngine, solid: Solid) -> None:
    async with serving() as api:
        api.check_problem(await api.post(solid(1), mode="patch"), 422, "invalid-parameter", "mode is 'patch'")
        answer = await api.post(solid(1), mode="tile", size="model")
        problem = api.check_problem(
            answer, 422, "invalid-parameter", "size=model cannot be combined with mode=tile", "leave out size or mode"
        )
        assert problem["parameter"] == "size"


async def test_labels_cannot_be_blended(serving: Serving, engine: FakeEngine, solid: Solid) -> None:
    engine.graph = replace(engine.graph, output="labels")
    engine.logits = lambda images: np.zeros((len(images), 8, 16), np.uint8)
    async with serving() as api:
        words = ("model.onnx gives labels", "mode=resize")
        api.check_problem(await api.post(solid(1), mode="tile"), 422, "invalid-parameter", *words)


async def test_nan_in_a_window_is_answered_500(serving: Serving, engine: FakeEngine) -> None:
    async with serving() as api:
        engine.logits = lambda images: np.full((len(images), 3, 8, 16), np.nan, np.float32)
        api.check_problem(await api.post(picture(noise(70, 130)), mode="tile"), 500, "engine-failure", "NaN")


async def test_the_limit_of_pixels_holds(serving: Serving) -> None:
    async with serving(max_image_pixels=9_000) as api:
        api.check_problem(await api.post(picture(noise(70, 130)), mode="tile"), 413, "payload-too-large", "9100")


async def test_windows_that_would_never_be_done_in_time_are_not_begun(
    serving_in_process: Serving, engine: FakeEngine
) -> None:
    async with serving_in_process() as api:
        api.batcher.seconds_per_image = 10.0
        engine.batch_sizes.clear()
        answer = await api.post(picture(noise(70, 130)), mode="tile")
        words = ("9 windows take about 90 s", "s of the request's time are left", "X-Request-Timeout-Ms")
        api.check_problem(answer, 422, "invalid-parameter", *words)
        assert engine.batch_sizes == []


async def test_images_take_turns() -> None:
    """Those of all models, and before its turn an image is not even decoded."""
    lock = asyncio.Lock()
    one, other = (TiledInference(cast(Batcher, None), CodecThreads(1), 3, lock) for _ in range(2))
    loop = asyncio.get_running_loop()
    first, second = (Ticket(TimeLimit(100, loop.time()), loop.time) for _ in range(2))
    entered = asyncio.Event()

    async def come() -> None:
        async with other.reserve(second):
            entered.set()

    async with one.reserve(first):
        coming = asyncio.create_task(come())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not entered.is_set()
        assert second.current_stage == "queue"
    await coming
    assert entered.is_set()


async def test_a_large_image_leaves_room_in_the_queue(serving: Serving, engine: FakeEngine) -> None:
    """It has at most two batches of windows there, so that smaller ones are still served beside it."""
    large = picture(noise(400, 400))
    async with serving() as api:
        engine.shut()
        first = asyncio.create_task(api.post(large, mode="tile"))
        await engine.until_entered()
        second = asyncio.create_task(api.post(large, mode="tile", palette="none"))
        while (await api.metric("ecenet_in_flight"), api.batcher.backlog) != (2, 16):  # noqa: ASYNC110
            await asyncio.sleep(0)
        small = asyncio.create_task(api.post(picture(noise(32, 64))))
        while api.batcher.backlog != 17:  # noqa: ASYNC110
            await asyncio.sleep(0)
        engine.gate.set()
        answers = await asyncio.gather(first, second, small)
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    np.testing.assert_array_equal(api.pixels(answers[0]), api.pixels(answers[1]))


def planned(size: tuple[int, int]) -> TilePlan:
    plan = plan_tiles(size, (32, 48), 4)
    assert plan is not None
    return plan


async def run_at_once(job: Callable[[], T]) -> T:
    return job()


class Windows:
    """An engine for windows that says how many were with it at once, and can answer late or fail."""

    def __init__(self, plan: TilePlan, answer: Callable[[NDArray[np.uint8]], Awaitable[NDArray[np.float32]]]) -> None:
        self.mosaic = Mosaic(plan, 3)
        self.inside = self.most_inside = self.begun = self.cancelled = 0
        self._answer = answer

    async def infer(self, window: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.begun += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            return await self._answer(window)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1

    async def segment(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        await segment_tiles(pixels, self.mosaic, infer=self.infer, run_in_thread=run_at_once, max_in_flight=4)
        return self.mosaic.painted[0]


@pytest.mark.parametrize("size", [(131, 90), (90, 131)])
async def test_windows_that_answer_in_any_order_give_the_same_labels(
    size: tuple[int, int], brightness_logits: Infer
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    plan = planned(size)
    delays = np.random.default_rng(1).integers(0, 9, plan.num_windows).tolist()

    async def answer(window: NDArray[np.uint8]) -> NDArray[np.float32]:
        for _ in range(delays.pop()):
            await asyncio.sleep(0)
        logits: NDArray[np.float32] = brightness_logits(window[None])[0]
        return logits

    windows = Windows(plan, answer)
    labels = await windows.segment(pixels)
    padded = np.pad(pixels, ((0, -size[0] % 4), (0, -size[1] % 4), (0, 0)), mode="edge")
    expected = label_map(brightness_logits(padded[None])[0], padded.shape[:2])[: size[0], : size[1]]
    assert (labels == expected).mean() > 0.999  # but for rounding
    assert windows.begun == plan.num_windows
    assert windows.most_inside == 4


async def test_a_failing_window_ends_the_image_and_gives_up_the_others() -> None:
    async def answer(_: NDArray[np.uint8]) -> NDArray[np.float32]:
        if windows.begun == 3:
            raise EngineFailure("poisoned")
        if windows.begun > 3:
            await asyncio.Event().wait()
        return np.zeros((3, 8, 12), np.float32)

    windows = Windows(planned((400, 400)), answer)
    with pytest.raises(EngineFailure, match="poisoned"):
        await windows.segment(np.zeros((400, 400, 3), np.uint8))
    assert windows.inside == 0
    assert windows.begun < 10


async def test_a_cancelled_image_gives_up_its_windows_and_begins_no_more() -> None:
    entered = asyncio.Event()

    async def answer(_: NDArray[np.uint8]) -> NDArray[np.float32]:
        if windows.begun == 4:
            entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    windows = Windows(planned((400, 400)), answer)
    task = asyncio.create_task(windows.segment(np.zeros((400, 400, 3), np.uint8)))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (windows.begun, windows.cancelled, windows.inside) == (4, 4, 0)


MEASURE = """
import asyncio, io, json, sys
import httpx, numpy as np
from PIL import Image
from service.model_directory.manifest import ClassInfo, GraphInfo, Manifest
from service.http.app import create_app
from service.settings import Settings

side, answer_format = int(sys.argv[1]), sys.argv[2]
NUM_CLASSES = 11

class Engine:
    name, num_classes, max_batch_size, warm_up_sizes = "fake", NUM_CLASSES, 4, (1,)
    graph = GraphInfo("model.onnx", "0" * 64, (576, 768))
    field = np.random.default_rng(0).normal(size=(NUM_CLASSES, 9, 12)).repeat(16, 1).repeat(16, 2).astype(np.float32)

    def infer(self, images):
        return np.broadcast_to(self.field, (len(images), *self.field.shape))

    def close(self):
        pass

async def main():
    Image.new("RGB", (side, side), (90, 120, 60)).save(stream := io.BytesIO(), "JPEG")
    classes = tuple(ClassInfo(number, str(number), (number, 0, 0)) for number in range(NUM_CLASSES))
    manifest = Manifest("fake", "1", "none", classes, (Engine.graph,))
    app = create_app(Settings(max_image_pixels=1 << 27, request_timeout_s=300), Engine(), manifest)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, timeout=300) as http:
        await app.state.runtime.started.wait()
        answer = await http.post(
            "http://test/segment",
            params={"mode": "tile", "format": answer_format},
            content=stream.getvalue(),
            headers={"content-type": "image/jpeg"},
        )
    # Not ru_maxrss, which a process inherits from the one that started it.
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    print(json.dumps({"status": answer.status_code, "peak": peak, "timing": answer.headers.get("server-timing")}))

asyncio.run(main())
"""


def test_a_hundred_megapixels_are_answered_within_two_gigabytes() -> None:
    command = [sys.executable, "-c", MEASURE, "10000", "json"]
    told = json.loads(subprocess.check_output(command, text=True))
    assert told["status"] == 200
    assert told["peak"] < 2e9
