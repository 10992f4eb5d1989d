"""``auto`` by measurement: the fastest of what agrees with PyTorch serves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines import create
from service.engines import measured_choice as choices
from service.engines.base import Engine, EngineError, Rows
from service.engines.measured_choice import explain_engine, measured_choice, open_engine
from service.engines.options import EngineOptions
from service.engines.processor import processor
from service.engines.runtimes import CPU_RUNTIMES
from service.engines.streams import concurrent_runs
from service.engines.trial import Timing
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.golden import make_golden, write_golden
from service.model_directory.manifest import FileInfo, Manifest, file_sha256, read_manifest, write_manifest
from service.model_directory.sizes import Size
from tests.support.brightness_model import Infer
from tests.support.stopwatch import OPTIONS, PRODUCTS, Stopwatch


@pytest.mark.parametrize("fastest", ["onnxruntime fp32", "openvino fp32"])
def test_the_fastest_serves_whatever_the_order(fastest: str, open_as: Callable[[Stopwatch], Engine]) -> None:
    stopwatch = Stopwatch({**PRODUCTS, fastest: 1.0}, num_streams=2)
    engine = open_as(stopwatch)
    assert f"{engine.name} {engine.graph.precision}" == fastest
    assert concurrent_runs(engine) == 2
    assert stopwatch.timed[:2] == ["onnxruntime fp32", "openvino fp32"]


def test_streams_that_do_not_pay_are_not_made(open_as: Callable[[Stopwatch], Engine]) -> None:
    assert concurrent_runs(open_as(Stopwatch(num_streams=1))) == 1


def test_what_differs_from_pytorch_does_not_serve(
    tiny_model_dir: Path, state: Path, brightness_logits: Infer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engines.openvino_engine import OpenVinoEngine  # noqa: PLC0415

    manifest = with_golden(tiny_model_dir, brightness_logits)
    real = OpenVinoEngine.infer

    def infer(self: OpenVinoEngine, images: NDArray[np.uint8]) -> Rows:
        return -real(self, images)

    monkeypatch.setattr(OpenVinoEngine, "infer", infer)
    stopwatch = Stopwatch()
    choice = measured_choice(tiny_model_dir, manifest, OPTIONS, measure=stopwatch)
    assert choice is not None
    assert (str(choice.candidate), set(stopwatch.timed)) == ("onnxruntime fp32", {"onnxruntime fp32"})
    assert "openvino fp32: the openvino engine at batch 1 differs from PyTorch" in str(choice)


def _fail(engine: Engine) -> Timing:
    raise RuntimeError("out of order")


def test_an_error_tells_what_was_tried_when_nothing_serves(
    tiny_model_dir: Path, state: Path, manifest: Manifest
) -> None:
    with pytest.raises(EngineError, match="no runtime can be used: onnxruntime fp32: out of order; openvino fp32: out"):
        measured_choice(tiny_model_dir, read_manifest(tiny_model_dir), replace(OPTIONS, cache_dir=state), measure=_fail)
    assert [path.name for path in state.iterdir()] == ["graphs"]


@pytest.mark.parametrize(
    "options", [replace(OPTIONS, measure=False), replace(OPTIONS, precision="fp32")], ids=["exact", "precision"]
)
def test_nothing_is_measured_unless_it_is_asked_for(options: EngineOptions, tiny_model_dir: Path, state: Path) -> None:
    assert measured_choice(tiny_model_dir, read_manifest(tiny_model_dir), options, measure=_fail) is None
    assert open_engine(tiny_model_dir, read_manifest(tiny_model_dir), options, measure=_fail).name == "onnxruntime"


def test_a_named_engine_is_measured_in_its_own_precisions(state: Path) -> None:
    directory = bundled_model_dir()
    stopwatch = Stopwatch({"onnxruntime fp32": 3, "onnxruntime int8": 2})
    options = replace(OPTIONS, engine="onnxruntime", num_threads=1, num_streams=1)
    choice = measured_choice(directory, read_manifest(directory), options, measure=stopwatch)
    assert choice is not None
    assert str(choice.candidate) == "onnxruntime int8"
    # In turn, so that both are timed in the same minutes.
    assert stopwatch.timed == ["onnxruntime fp32", "onnxruntime int8"] * (len(stopwatch.timed) // 2)
    assert len(stopwatch.timed) > 2


@pytest.mark.parametrize(
    ("options", "streams"),
    [
        (EngineOptions(num_threads=1, measure=True), 1),
        (EngineOptions(num_threads=2, measure=True), 2),
        (EngineOptions(num_threads=3, measure=True), 3),
        (EngineOptions(num_threads=9, measure=True), 4),
        (EngineOptions(num_threads=9, max_batch_size=1, measure=True), 1),
        (EngineOptions(num_threads=9, num_streams=6, measure=True), 6),
    ],
)
def test_as_many_streams_are_tried_as_threads_and_batches_have_use_for(
    options: EngineOptions, streams: int, tiny_model_dir: Path, state: Path
) -> None:
    tried: set[int] = set()

    def measure(engine: Engine) -> Timing:
        tried.add(concurrent_runs(engine))
        return Timing(2.0, 1.0, concurrent_runs(engine))

    choice = measured_choice(tiny_model_dir, read_manifest(tiny_model_dir), options, measure=measure)
    assert choice is not None
    assert (tried, choice.num_streams) == ({streams}, streams)


@pytest.mark.parametrize(("gibibytes", "streams"), [(0.5, 1), (1.5, 1), (2, 2), (64, 4)])
def test_there_is_a_gibibyte_for_each_stream(
    gibibytes: float, streams: int, tiny_model_dir: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "available_memory", lambda: int(gibibytes * 2**30))
    options = EngineOptions(num_threads=9, measure=True)
    choice = measured_choice(
        tiny_model_dir,
        read_manifest(tiny_model_dir),
        options,
        measure=lambda engine: Timing(2.0, 1.0, concurrent_runs(engine)),
    )
    assert choice is not None
    assert choice.num_streams == streams


def test_no_two_engines_are_open_while_they_are_measured(
    tiny_model_dir: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = [0]
    real = create.create_engine

    def create_one(*arguments: Any) -> Engine:
        engine, opened[0] = real(*arguments), opened[0] + 1
        close = engine.close
        monkeypatch.setattr(engine, "close", lambda: (close(), opened.__setitem__(0, opened[0] - 1)))
        return engine

    def measure(engine: Engine) -> Timing:
        assert opened == [1]
        return Timing(1.0, 1.0)

    monkeypatch.setattr(choices, "create_engine", create_one)
    choice = measured_choice(tiny_model_dir, read_manifest(tiny_model_dir), OPTIONS, measure=measure)
    assert choice is not None
    assert all(trial.timing for trial in choice.trials if trial.candidate.runtime in CPU_RUNTIMES and not trial.fault)
    assert opened == [0]


def test_streams_of_a_single_candidate_are_measured_too(
    tiny_model_dir: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for threads, streams in ((2, 2), (1, 1)):
        options = replace(OPTIONS, num_threads=threads, num_streams=1)
        engine = open_engine(
            tiny_model_dir, read_manifest(tiny_model_dir), options, measure=lambda _: Timing(2.0, 1.0, 2)
        )
        assert (engine.name, concurrent_runs(engine)) == ("onnxruntime", streams)


def test_speed_serves_the_smallest_input_of_the_model(
    state: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(64, 96), (32, 64), (64, 64)]
    several = replace(manifest, graphs=tuple(replace(manifest.graph, input_size=size) for size in sizes))
    opened: list[Size | None] = []
    monkeypatch.setattr(choices, "create_engine", lambda *arguments: opened.append(arguments[2].input_size))
    for options in (EngineOptions(), EngineOptions(speed=True), EngineOptions(speed=True, input_size=(64, 64))):
        open_engine(tmp_path, several, options)
    assert opened == [None, (32, 64), (64, 64)]


def test_the_explanation_has_the_processor_and_an_arrow(tiny_model_dir: Path, state: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    open_engine(tiny_model_dir, manifest, OPTIONS, measure=Stopwatch())
    head, *rows = explain_engine(tiny_model_dir, manifest, OPTIONS).splitlines()
    assert head == f"brightness {manifest.version} on {processor()}, 2 threads"
    assert [row for row in rows if row.startswith("->")] == [
        "-> openvino fp32 4.0 ms alone, 4.0 ms an image under load"
    ]
    assert "   onnxruntime fp32 9.0 ms alone, 9.0 ms an image under load" in rows
    assert any(row.startswith("   tensorrt fp32: ") for row in rows)
    assert len({row.partition(": ")[2] for row in rows if ": " in row}) == len([row for row in rows if ": " in row])
    *_, named = explain_engine(tiny_model_dir, manifest, EngineOptions(num_threads=1)).splitlines()
    assert named == "-> onnxruntime fp32: the settings leave no choice to measure"


def with_golden(directory: Path, logits: Infer) -> Manifest:
    images = np.random.default_rng(5).integers(0, 256, (2, 32, 64, 3), np.uint8)
    write_golden(directory / "golden.npz", {(32, 64): make_golden(images, logits(images), {})})
    golden = FileInfo("golden.npz", file_sha256(directory / "golden.npz"))
    write_manifest(directory, replace(read_manifest(directory), golden=golden))
    return read_manifest(directory)
