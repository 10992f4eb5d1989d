"""Common behaviour of both runtimes of a CPU, ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.base import EngineError, warm_up
from service.engines.create import create_engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.engines.openvino_engine import OpenVinoEngine
from service.engines.options import EngineOptions
from service.engines.runtimes import RuntimeName
from service.model_directory.manifest import GRAPH_NAME, ClassInfo, Manifest, read_manifest
from tests.support.brightness_model import Infer

Images = NDArray[np.uint8]
Kind = type[OnnxRuntimeEngine] | type[OpenVinoEngine]


@pytest.fixture(params=[OnnxRuntimeEngine, OpenVinoEngine])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(7).integers(0, 256, (5, 32, 64, 3), np.uint8)


def load(kind: Kind, directory: Path, manifest: Manifest) -> OnnxRuntimeEngine | OpenVinoEngine:
    return kind(directory, manifest, manifest.graph, num_threads=1, max_batch_size=4)


@pytest.fixture
def engine(kind: Kind, tiny_model_dir: Path) -> Iterator[OnnxRuntimeEngine | OpenVinoEngine]:
    engine = load(kind, tiny_model_dir, read_manifest(tiny_model_dir))
    yield engine
    engine.close()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_logits_are_those_of_the_graph(
    name: RuntimeName, tiny_model_dir: Path, images: Images, brightness_logits: Infer
) -> None:
    settings = EngineOptions(engine=name, num_threads=1)
    engine = create_engine(tiny_model_dir, read_manifest(tiny_model_dir), settings)
    assert (engine.name, engine.graph.input_size, engine.num_classes) == (name, (32, 64), 3)
    logits = engine.infer(images)
    assert (logits.dtype, logits.shape) == (np.float32, (5, 3, 8, 16))
    np.testing.assert_allclose(logits, brightness_logits(images), rtol=1e-5, atol=1e-2)
    engine.close()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_row_of_a_batch_equals_the_single_call(
    engine: OnnxRuntimeEngine | OpenVinoEngine, images: Images, batch_size: int
) -> None:
    batch = engine.infer(images[:batch_size])
    assert len(batch) == batch_size
    for row, image in zip(batch, images, strict=False):
        np.testing.assert_array_equal(row, engine.infer(image[None])[0])


def test_rows_stay_what_they_are_in_the_runs_that_follow(
    engine: OnnxRuntimeEngine | OpenVinoEngine, images: Images
) -> None:
    rows = engine.infer(images[:1])
    kept = rows.copy()
    engine.infer(images[1:3])
    np.testing.assert_array_equal(rows, kept)


def test_images_that_do_not_lie_row_by_row_in_memory_are_read_as_they_are(
    engine: OnnxRuntimeEngine | OpenVinoEngine, images: Images
) -> None:
    mirrored = images[:, :, ::-1]
    np.testing.assert_array_equal(engine.infer(mirrored), engine.infer(np.ascontiguousarray(mirrored)))


def test_warm_up_runs_the_smallest_and_the_largest_batch(engine: OnnxRuntimeEngine | OpenVinoEngine) -> None:
    assert engine.warm_up_sizes == [1, 4]
    assert list(warm_up(engine)) == [1, 4]


def test_graph_that_the_manifest_does_not_describe_is_refused(kind: Kind, tiny_model_dir: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    two_classes = (ClassInfo(0, "a", (0, 0, 0)), ClassInfo(1, "b", (0, 0, 0)))
    larger = replace(manifest.graph, input_size=(64, 64))
    labels = replace(manifest.graph, output="labels")
    for change in ({"graphs": (larger,)}, {"graphs": (labels,)}, {"classes": two_classes}):
        with pytest.raises(EngineError, match="manifest asks for one"):
            load(kind, tiny_model_dir, replace(manifest, **change))


def test_graph_with_a_fixed_batch_size_is_refused(
    kind: Kind, tiny_model_dir: Path, write_graph: Callable[[Path, int | str], None]
) -> None:
    manifest = read_manifest(tiny_model_dir)
    write_graph(tiny_model_dir / GRAPH_NAME, 1)
    with pytest.raises(EngineError, match="free batch size"):
        load(kind, tiny_model_dir, manifest)


def test_file_that_is_no_graph_is_refused_in_one_sentence(kind: Kind, tiny_model_dir: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    (tiny_model_dir / GRAPH_NAME).write_bytes(b"no graph")
    with pytest.raises(EngineError, match=rf"^{kind.__name__[:-6].lower()} cannot load .*model\.onnx: ") as caught:
        load(kind, tiny_model_dir, manifest)
    assert "\n" not in str(caught.value)
