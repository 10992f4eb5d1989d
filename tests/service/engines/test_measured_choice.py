"""``auto`` by measurement: the fastest of what agrees with PyTorch serves, and the next start remembers it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines import choice_memory
from service.engines.base import Engine, EngineError, Rows
from service.engines.measured_choice import explain_engine, measured_choice, open_engine
from service.engines.options import EngineOptions
from service.engines.processor import processor
from service.engines.streams import concurrent_runs
from service.engines.trial import Timing, time_engine
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.engine_store import STATE_VARIABLE
from service.model_directory.golden import make_golden, write_golden
from service.model_directory.manifest import FileInfo, GraphInfo, Manifest, file_sha256, read_manifest, write_manifest
from tests.support.brightness_model import Infer
from tests.support.limits import HANG_S

OPTIONS = EngineOptions(num_threads=2, num_streams=2, measure=True)
PRODUCTS = {"onnxruntime fp32": 9.0, "openvino fp32": 4.0, "openvino bf16": 25.0}


class Stopwatch:
    """Times that a test chooses, by runtime and precision; remembers what was timed."""

    def __init__(self, milliseconds: Mapping[str, float] = PRODUCTS, num_streams: int = 1) -> None:
        self.milliseconds = milliseconds
        self.num_streams = num_streams
        self.timed: list[str] = []

    def __call__(self, engine: Engine) -> Timing:
        name = f"{engine.name} {engine.graph.precision}"
        self.timed.append(name)
        return Timing(self.milliseconds[name], self.milliseconds[name], self.num_streams)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def open_as(tiny_model_dir: Path, state: Path) -> Callable[[Stopwatch], Engine]:
    return lambda stopwatch: open_engine(tiny_model_dir, read_manifest(tiny_model_dir), OPTIONS, measure=stopwatch)


@pytest.mark.parametrize("fastest", ["onnxruntime fp32", "openvino fp32"])
def test_the_fastest_serves_whatever_the_order(fastest: str, open_as: Callable[[Stopwatch], Engine]) -> None:
    stopwatch = Stopwatch({**PRODUCTS, fastest: 1.0}, num_streams=2)
    engine = open_as(stopwatch)
    assert f"{engine.name} {engine.graph.precision}" == fastest
    assert concurrent_runs(engine) == 2
    assert stopwatch.timed[:2] == ["onnxruntime fp32", "openvino fp32"]


def test_streams_that_do_not_pay_are_not_made(open_as: Callable[[Stopwatch], Engine]) -> None:
    assert concurrent_runs(open_as(Stopwatch(num_streams=1))) == 1


def test_the_next_start_measures_nothing_and_says_so(
    open_as: Callable[[Stopwatch], Engine], state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Stopwatch(), Stopwatch({"onnxruntime fp32": 0.1})
    with caplog.at_level(logging.INFO, "service.engines.measured_choice"):
        assert [open_as(stopwatch).name for stopwatch in (first, second)] == ["openvino", "openvino"]
    assert (len(first.timed) >= 2, second.timed) == (True, [])
    choices = [record.message for record in caplog.records if record.name == "service.engines.measured_choice"]
    measured, remembered = choices
    assert measured.startswith("openvino fp32 serves (measured): onnxruntime fp32 9.0 ms alone, 9.0 ms an image")
    assert remembered.startswith("openvino fp32 serves (remembered from an earlier start): onnxruntime fp32 9.0 ms")
    assert len(list((state / "engine-choices").iterdir())) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '[{"candidate": {"runtime": "x"}, "timing": null}]', "[1]"])
def test_a_broken_memory_is_measured_again(content: str, open_as: Callable[[Stopwatch], Engine], state: Path) -> None:
    open_as(Stopwatch())
    (kept,) = (state / "engine-choices").iterdir()
    good = json.loads(kept.read_text())
    kept.write_text(content)
    again = Stopwatch()
    open_as(again)
    assert "onnxruntime fp32" in again.timed
    assert json.loads(kept.read_text()) == good


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest, options: (replace(manifest, graphs=(replace(manifest.graph, sha256="1" * 64),)), options),
        lambda manifest, options: (manifest, replace(options, num_threads=3)),
        lambda manifest, options: (manifest, replace(options, num_streams=1)),
    ],
    ids=["graph", "threads", "streams"],
)
def test_the_memory_is_of_one_graph_and_one_number_of_threads(
    change: Callable[[Manifest, EngineOptions], tuple[Manifest, EngineOptions]], manifest: Manifest
) -> None:
    changed, options = change(manifest, OPTIONS)
    assert choice_memory.choice_key(changed, [], options) != choice_memory.choice_key(manifest, [], OPTIONS)


@pytest.mark.parametrize("name", ["processor", "_version"])
def test_another_processor_or_another_version_measures_again(
    name: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = choice_memory.choice_key(manifest, [], OPTIONS)
    monkeypatch.setattr(choice_memory, name, lambda *_: "another")
    assert choice_memory.choice_key(manifest, [], OPTIONS) != before


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(
    open_as: Callable[[Stopwatch], Engine], state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state.write_text("a file")
    assert open_as(Stopwatch()).name == "openvino"
    assert "nothing is kept for the next start" in caplog.text


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
    assert (str(choice.candidate), stopwatch.timed) == ("onnxruntime fp32", ["onnxruntime fp32"])
    assert "openvino fp32: the openvino engine at batch 1 differs from PyTorch" in str(choice)


def _fail(engine: Engine) -> Timing:
    raise RuntimeError("out of order")


def test_an_error_tells_what_was_tried_when_nothing_serves(
    tiny_model_dir: Path, state: Path, manifest: Manifest
) -> None:
    with pytest.raises(EngineError, match="no runtime can be used: onnxruntime fp32: out of order; openvino fp32: out"):
        measured_choice(tiny_model_dir, read_manifest(tiny_model_dir), OPTIONS, measure=_fail)


@pytest.mark.parametrize(
    "options", [replace(OPTIONS, measure=False), replace(OPTIONS, precision="fp32")], ids=["exact", "precision"]
)
def test_nothing_is_measured_unless_it_is_asked_for(options: EngineOptions, tiny_model_dir: Path, state: Path) -> None:
    assert measured_choice(tiny_model_dir, read_manifest(tiny_model_dir), options, measure=_fail) is None
    assert open_engine(tiny_model_dir, read_manifest(tiny_model_dir), options, measure=_fail).name == "onnxruntime"


def test_a_named_engine_is_measured_in_its_own_precisions(state: Path) -> None:
    directory = bundled_model_dir()
    stopwatch = Stopwatch({"onnxruntime fp32": 3, "onnxruntime int8": 2})
    options = replace(OPTIONS, engine="onnxruntime", num_streams=1)
    choice = measured_choice(directory, read_manifest(directory), options, measure=stopwatch)
    assert choice is not None
    assert (str(choice.candidate), stopwatch.timed) == ("onnxruntime int8", ["onnxruntime fp32", "onnxruntime int8"])


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
    *_, named = explain_engine(tiny_model_dir, manifest, EngineOptions(num_threads=1)).splitlines()
    assert named == "-> onnxruntime fp32: the settings leave no choice to measure"


def test_a_processor_is_named_with_its_instructions(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast One\nflags\t\t: fpu avx2 avx512_vnni\n")
    assert processor(tmp_path).endswith(" Fast One: avx2 avx512_vnni")
    assert processor(tmp_path / "absent").endswith(" unknown processor: no vector instructions known")


class Meeting:
    """An engine of two streams whose runs must meet in pairs, or that alone is slow."""

    name = "meeting"
    num_classes = 3
    max_batch_size = 1
    warm_up_sizes = (1,)
    num_streams = 2

    def __init__(self) -> None:
        self.graph = GraphInfo("model.onnx", "0" * 64, (4, 4))
        self.together = threading.Barrier(2)
        self.runs = 0

    def infer(self, images: NDArray[np.uint8]) -> Rows:
        self.runs += 1
        if self.runs > 3:
            self.together.wait(HANG_S)
        return np.zeros((len(images), 3, 1, 1), np.float32)

    def close(self) -> None:
        pass


def test_all_streams_are_busy_while_the_load_is_timed() -> None:
    engine = Meeting()
    timing = time_engine(engine, budget_s=0)
    assert engine.runs == 3 + 3 * 4
    assert min(timing.alone, timing.per_image) > 0


def with_golden(directory: Path, logits: Infer) -> Manifest:
    images = np.random.default_rng(5).integers(0, 256, (2, 32, 64, 3), np.uint8)
    write_golden(directory / "golden.npz", {(32, 64): make_golden(images, logits(images), {})})
    golden = FileInfo("golden.npz", file_sha256(directory / "golden.npz"))
    write_manifest(directory, replace(read_manifest(directory), golden=golden))
    return read_manifest(directory)
