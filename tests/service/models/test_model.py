"""A version of a model that serves: the bounds of its queue."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from service.errors import Overloaded
from service.inference.batch_observers import BatchTrace
from service.metrics import Metrics
from service.model_directory.manifest import Manifest
from service.models.model import Model
from service.models.source import FoundModel, LoadedModel
from service.settings import Settings
from tests.support.brightness_model import brightness_logits
from tests.support.fake_engine import FakeEngine


@dataclass
class Host:
    """Of several processes that send images."""

    workers: int
    settings: Settings = field(default_factory=lambda: Settings(max_requests_in_flight=4, max_batch_size=2))
    batch_trace: BatchTrace | None = None

    def expects(self, model: Model) -> bool:
        return False

    async def until_unused(self, model: Model) -> None:
        pass

    def models_changed(self) -> None:
        pass


@pytest.mark.anyio
@pytest.mark.parametrize("workers", [1, 3])
async def test_each_process_may_have_the_windows_of_an_image_in_the_queue(workers: int, manifest: Manifest) -> None:
    engine = FakeEngine(brightness_logits)
    loaded = LoadedModel(manifest, engine, {})
    model = Model(FoundModel("street", "1"), loaded, ThreadPoolExecutor(1), Host(workers), Metrics().of_model("street"))
    image = np.zeros((*engine.graph.input_size, 3), np.uint8)
    deadline = asyncio.get_running_loop().time() + 60
    works = [model.queue.enqueue(image, np.empty(0, np.float32), deadline) for _ in range(4 + workers * 2 * 2)]
    with pytest.raises(Overloaded):
        model.queue.enqueue(image, np.empty(0, np.float32), deadline)
    for work in works:
        model.queue.withdraw(work)
    await model.stop()
