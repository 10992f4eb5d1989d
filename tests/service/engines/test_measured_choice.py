"""``auto`` by measurement: the fastest of what agrees with PyTorch serves, and the next start remembers it."""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines import choice_memory, create
from service.engines import measured_choice as choices
from service.engines.base import Engine, EngineError, Rows
from service.engines.measured_choice import explain_engine, measured_choice, open_engine
from service.engines.options import EngineOptions
from service.engines.processor import processor
from service.engines.runtimes import CPU_RUNTIMES
from service.engines.streams import concurrent_runs
from service.engines.trial import Candidate, Timing, Trial, best_trial, quickest, time_engine
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.engine_store import STATE_VARIABLE
from service.model_directory.golden import make_golden, write_golden
from service.model_directory.manifest import FileInfo, GraphInfo, Manifest, file_sha256, read_manifest, write_manifest
from service.model_directory.sizes import Size
from tests.support.brightness_model import Infer

OPTIONS = EngineOptions(num_threads=2, num_streams=2, measure=True)
CANDIDATES = [Candidate("onnxruntime", "fp32"), Candidate("onnxruntime", "int8"), Candidate("openvino", "fp32")]
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
        return Timing(self.milliseconds[name], self.milliseconds[name] / self.num_streams, self.num_streams)


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
    lines = [record.message for record in caplog.records if record.name == "service.engines.measured_choice"]
    announced, measured, remembered = lines
    assert announced.startswith("measuring onnxruntime fp32, openvino fp32")
    assert measured.startswith("openvino fp32 serves (measured): onnxruntime fp32 9.0 ms alone, 9.0 ms an image")
    assert remembered.startswith("openvino fp32 serves (remembered from an earlier start): onnxruntime fp32 9.0 ms")
    assert len(list((state / "engine-choices").iterdir())) == 1


@pytest.mark.parametrize("fastest", ["onnxruntime", "openvino"])
def test_a_remembered_choice_imports_no_other_runtime(
    fastest: str, open_as: Callable[[Stopwatch], Engine], tiny_model_dir: Path
) -> None:
    open_as(Stopwatch({**PRODUCTS, f"{fastest} fp32": 1.0}))
    program = (
        "import sys; from pathlib import Path; from service.engines.measured_choice import open_engine\n"
        "from service.engines.options import EngineOptions\n"
        "from service.model_directory.manifest import read_manifest\n"
        "folder, options = Path(sys.argv[1]), EngineOptions(num_threads=2, num_streams=2, measure=True)\n"
        "print(open_engine(folder, read_manifest(folder), options).name, *{'onnxruntime', 'openvino'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program, tiny_model_dir], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [fastest, fastest]


def test_a_remembered_runtime_that_is_broken_is_not_insisted_on(
    open_as: Callable[[Stopwatch], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_as(Stopwatch()).name == "openvino"
    monkeypatch.setattr(create, "openvino_obstacle", lambda _: "libopenvino.so: file too short")
    again = Stopwatch()
    assert (open_as(again).name, set(again.timed)) == ("onnxruntime", {"onnxruntime fp32"})


BROKEN = ["", "[]", "{}", '[{"candidate": {"runtime": "x"}, "timing": null}]', "[1]", "[" * 100_000]


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_memory_is_measured_again(
    content: str, open_as: Callable[[Stopwatch], Engine], state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_as(Stopwatch())
    (kept,) = (state / "engine-choices").iterdir()
    good = json.loads(kept.read_text())
    kept.write_text(content)
    again = Stopwatch()
    open_as(again)
    assert f"{kept} cannot be used, so engines are measured again: " in caplog.text
    assert "onnxruntime fp32" in again.timed
    assert json.loads(kept.read_text()) == good


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda trial: trial["candidate"].update(runtime="another"), "it is of other runtimes or precisions"),
        (lambda trial: trial["timing"].update(num_streams=3), "it has more than 2 streams"),
        (lambda trial: trial["timing"].update(alone=-1.0), "times are"),
    ],
    ids=["runtime", "streams", "time"],
)
def test_a_memory_of_something_else_is_measured_again(
    change: Callable[[Any], None],
    reason: str,
    open_as: Callable[[Stopwatch], Engine],
    state: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    open_as(Stopwatch())
    (kept,) = (state / "engine-choices").iterdir()
    trials = json.loads(kept.read_text())
    change(trials[0])
    kept.write_text(json.dumps(trials))
    again = Stopwatch()
    open_as(again)
    assert "onnxruntime fp32" in again.timed
    assert f"so engines are measured again: {reason}" in caplog.text


def test_a_state_folder_that_cannot_be_written_is_read_and_said(
    open_as: Callable[[Stopwatch], Engine],
    state: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_as(Stopwatch())
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    monkeypatch.setattr("os.access", lambda *_: False)
    caplog.clear()
    again = Stopwatch()
    assert open_as(again).name == "openvino"
    assert again.timed == []
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"nothing more is kept for the next start: {state} cannot be written"
    ]
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest, options: (replace(manifest, graphs=(replace(manifest.graph, sha256="1" * 64),)), options),
        lambda manifest, options: (manifest, replace(options, num_threads=3)),
        lambda manifest, options: (manifest, replace(options, num_streams=1)),
        lambda manifest, options: (manifest, replace(options, max_batch_size=1)),
    ],
    ids=["graph", "threads", "streams", "batch"],
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


def test_a_full_disk_costs_the_memory_alone_and_leaves_no_file(
    open_as: Callable[[Stopwatch], Engine],
    state: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_text(path: Path, *_: object, **__: object) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_text)
        assert open_as(Stopwatch()).name == "openvino"
    assert "No space left on device" in caplog.text
    assert not [*state.rglob("*.json"), *state.rglob(".choice-*")]


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


def test_a_processor_is_named_with_its_instructions(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast One\nflags\t\t: fpu avx2 avx512_vnni\n")
    assert processor(tmp_path).endswith(" Fast One: avx2 avx512_vnni")
    assert processor(tmp_path / "absent").endswith(" unknown processor: no vector instructions known")


class Batches:
    """An engine that counts its runs by the size of their batch."""

    name = "onnxruntime"
    num_classes = 3
    graph = GraphInfo("model.onnx", "0" * 64, (4, 4))

    def __init__(self, num_streams: int, *warm_up_sizes: int) -> None:
        self.num_streams, self.warm_up_sizes = num_streams, warm_up_sizes
        self.max_batch_size = warm_up_sizes[-1]
        self.runs: dict[int, int] = {}

    def infer(self, images: NDArray[np.uint8]) -> Rows:
        self.runs[len(images)] = self.runs.get(len(images), 0) + 1
        return np.zeros((len(images), 3, 1, 1), np.float32)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("streams", "sizes"), [(1, (1,)), (1, (1, 2, 8)), (3, (1, 3))])
def test_an_engine_is_timed_in_the_batches_that_it_serves(streams: int, sizes: tuple[int, ...]) -> None:
    engine = Batches(streams, *sizes)
    timing = time_engine(engine, budget_s=0)
    assert engine.runs == dict.fromkeys(sizes, 1)
    assert timing.num_streams == streams
    assert min(timing.alone, timing.per_image) > 0


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([Timing(5, 4, 1), Timing(9, 3, 1)], Timing(5, 3, 1)),
        ([Timing(5, 7, 1)], Timing(5, 5, 1)),
        ([Timing(9, 8, 2), Timing(8, 6, 2)], Timing(8, 6, 2)),
        ([Timing(100, 96, 2)], Timing(100, 100, 1)),
        ([Timing(100, 94, 2)], Timing(100, 94, 2)),
    ],
    ids=["least", "batch of no use", "streams", "streams that save too little", "streams that save enough"],
)
def test_the_quickest_of_all_rounds_counts(rounds: list[Timing], expected: Timing) -> None:
    assert quickest(rounds) == expected


@pytest.mark.parametrize(
    ("products", "expected"),
    [
        ([100, 91], 0),
        ([100, 89], 1),
        ([100, 91, 83], 1),
        ([100, 50, 49], 1),
        ([None, 60], 1),
        ([40, None, 39], 0),
    ],
    ids=["near", "far", "nearest that is near", "three", "first fails", "second fails"],
)
def test_a_later_candidate_has_to_save_a_tenth(products: list[float | None], expected: int) -> None:
    trials = [
        Trial(candidate, None, "lost") if product is None else Trial(candidate, Timing(product / 10, 10.0))
        for candidate, product in zip(CANDIDATES, products, strict=False)
    ]
    assert best_trial(trials)[0] == CANDIDATES[expected]


def test_small_differences_from_start_to_start_do_not_change_the_choice() -> None:
    rng = np.random.default_rng(0)
    chosen = set()
    for _ in range(200):
        times = np.array([10.0, 9.9, 9.95]) * rng.uniform(1.0, 1.04, 3)
        trials = [Trial(candidate, Timing(t, t)) for candidate, t in zip(CANDIDATES, times.tolist(), strict=True)]
        chosen.add(best_trial(trials)[0])
    assert chosen == {CANDIDATES[0]}


def with_golden(directory: Path, logits: Infer) -> Manifest:
    images = np.random.default_rng(5).integers(0, 256, (2, 32, 64, 3), np.uint8)
    write_golden(directory / "golden.npz", {(32, 64): make_golden(images, logits(images), {})})
    golden = FileInfo("golden.npz", file_sha256(directory / "golden.npz"))
    write_manifest(directory, replace(read_manifest(directory), golden=golden))
    return read_manifest(directory)
