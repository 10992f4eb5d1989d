"""CPU seconds that an image costs beside the engine: the codecs in one thread, and the process around them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.scale.calibration import CpuCosts
from benchmarks.scale.load import saturate
from benchmarks.scale.server import make_engine
from benchmarks.scale.subject import RunningService, image_of
from service.imaging.codec import decode, encode_label_png
from service.imaging.resize import resize_to_input
from service.imaging.segmentation import labels_of
from service.settings import Settings

_REPEATS = 30
_NO_LIMIT = 1 << 30


def measure_cpu_costs(sleeping: RunningService, seconds: float) -> CpuCosts:
    """Medians for the example street with the bundled model's logits of it; ``sleeping`` has the engine that sleeps."""
    image = image_of("bundled")
    engine, manifest = make_engine("bundled", Settings())
    pixels = decode(image, max_image_bytes=_NO_LIMIT, max_image_pixels=_NO_LIMIT).pixels
    size = pixels.shape[:2]
    logits = np.asarray(engine.infer(resize_to_input(pixels, engine.graph.input_size)[None])[0])
    labels = labels_of(logits, size)
    engine.close()
    return CpuCosts(
        decode_s=_cpu_s(lambda: _input(image, engine.graph.input_size)),
        labels_s=_cpu_s(lambda: labels_of(logits, size)),
        encode_s=_cpu_s(lambda: encode_label_png(labels, manifest.palette)),
        request_s=_request_s(sleeping, seconds),
        image_bytes=len(image),
        answer_bytes=len(encode_label_png(labels, manifest.palette)),
    )


def _request_s(service: RunningService, seconds: float) -> float:
    before_s = service.cpu_s()
    answers = saturate(service.url, service.image, service.limits.max_batch_size, seconds)
    return round((service.cpu_s() - before_s) / len(answers), 6)


def _input(image: bytes, size: tuple[int, int]) -> object:
    pixels = decode(image, max_image_bytes=_NO_LIMIT, max_image_pixels=_NO_LIMIT).pixels
    return resize_to_input(pixels, size)


def _cpu_s(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(_REPEATS):
        started = time.thread_time()
        call()
        times.append(time.thread_time() - started)
    return round(statistics.median(times), 6)
