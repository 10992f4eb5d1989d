"""An engine that is missing is built at the start by a process of its own, once, and serves."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, create_autospec

import onnx
import pytest

from service.engines import create, measured_choice
from service.engines.base import Engine, EngineError
from service.engines.create import create_engine
from service.engines.measured_choice import open_engine
from service.engines.options import EngineOptions
from service.engines.runtimes import EngineName
from service.engines.tensorrt import build_at_start as build
from service.engines.tensorrt.build_process import BuildRequest
from service.engines.tensorrt.engine import TensorRtEngine
from service.engines.trial import Timing
from service.model_directory.engine_store import STATE_VARIABLE, EngineInfo, EngineKey, building, write_engine
from service.model_directory.machine import EngineRuntime, Machine, detect_builder
from service.model_directory.manifest import (
    GRAPH_NAME,
    ClassInfo,
    GraphInfo,
    Manifest,
    file_sha256,
    read_manifest,
    write_manifest,
)
from tests.support.attention_graph import attention_graph
from tests.support.limits import HANG_S
from tests.support.machines import L4, NO_DRIVER, NOT_INSTALLED, Awaited, detector, python


@pytest.fixture
def model_dir(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_VARIABLE, str(tiny_model_dir.parent / "state"))
    return tiny_model_dir


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A machine with a GPU and TensorRT; the call that would load an engine is checked."""
    fake: MagicMock = create_autospec(TensorRtEngine)
    monkeypatch.setattr(create, "detect_machine", detector(tensorrt=None, tensorrt_rtx=NOT_INSTALLED))
    monkeypatch.setattr(create, "TensorRtEngine", fake)
    return fake


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, with_fp16: Manifest) -> list[list[str]]:
    """The commands of the builds that were run; each writes the engine that it is told to."""
    commands: list[list[str]] = []

    def run(command: list[str]) -> None:
        commands.append(command)
        request = BuildRequest.from_json(command[-1])
        folder, most = request.engine_dir, request.options.max_batch_size
        graph = with_fp16.graphs[1]
        key = EngineKey(graph.sha256, L4, (1, most, most))
        write_engine(folder, b"plan", EngineInfo(key, "", graph.input_size, "fp16", "logits", 4, 3, 3, 3, time.time()))

    monkeypatch.setattr(build, "run_build", run)
    return commands


@pytest.mark.parametrize("wanted", ["auto", "tensorrt"])
def test_missing_engine_is_built_loaded_and_there_for_the_next_start(
    wanted: EngineName, model_dir: Path, with_fp16: Manifest, loaded: MagicMock, builds: list[list[str]]
) -> None:
    folder = model_dir.parent / "engines"
    settings = EngineOptions(engine=wanted, build_engine=True, engine_dir=folder)
    for _ in range(2):
        assert create_engine(model_dir, with_fp16, settings) is loaded.return_value
    assert len(builds) == 1
    assert builds[0][4] == str(os.getpid())
    assert BuildRequest.from_json(builds[0][5]).model_dir == model_dir
    info, graph = loaded.call_args.args[:2]
    assert (info.path.parent, graph) == (folder, with_fp16.graphs[1])


def test_an_engine_of_smaller_batches_than_asked_for_is_built_anew(
    model_dir: Path, with_fp16: Manifest, loaded: MagicMock, builds: list[list[str]]
) -> None:
    folder = model_dir.parent / "engines"
    for most in (8, 4, 16, 16, None):
        create_engine(model_dir, with_fp16, EngineOptions(build_engine=True, engine_dir=folder, max_batch_size=most))
    assert [BuildRequest.from_json(command[-1]).options.max_batch_size for command in builds] == [8, 16]
    assert [call.args[0].max_batch_size for call in loaded.call_args_list] == [8, 8, 16, 16, 16]


@pytest.mark.parametrize(("milliseconds", "served"), [({"fp16": 2.0, "int8": 1.0}, "int8"), ({"fp16": 1.0}, "fp16")])
def test_an_int8_engine_that_is_there_serves_if_it_is_faster(  # noqa: PLR0917
    milliseconds: dict[str, float],
    served: str,
    model_dir: Path,
    with_fp16: Manifest,
    loaded: MagicMock,
    builds: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that fails its self-check, which here is the one without a time, does not."""
    eight_bits = replace(with_fp16.graphs[1], file="eight.onnx", sha256="8" * 64, precision="int8")
    manifest = replace(with_fp16, graphs=(*with_fp16.graphs, eight_bits))
    folder, key = model_dir.parent / "engines", EngineKey(eight_bits.sha256, L4, (1, 8, 8))
    info = EngineInfo(key, "", eight_bits.input_size, "int8", "logits", 4, 3, 3, 3, time.time())
    write_engine(folder, b"plan of int8", info)
    loaded.side_effect = lambda _, graph, *__, **___: SimpleNamespace(
        name="tensorrt", graph=graph, warm_up_sizes=(), close=lambda: None
    )

    def prove(engine: Engine, *_: object) -> None:
        if engine.graph.precision not in milliseconds:
            raise EngineError("differs from PyTorch")

    def measure(engine: Engine) -> Timing:
        return Timing(milliseconds[engine.graph.precision], milliseconds[engine.graph.precision])

    monkeypatch.setattr(measured_choice, "prove_engine", prove)
    options = EngineOptions(build_engine=True, engine_dir=folder, measure=True)
    assert open_engine(model_dir, manifest, options, measure=measure).graph.precision == served
    assert len(builds) == 1


def test_nothing_is_built_without_being_told(model_dir: Path, with_fp16: Manifest, loaded: MagicMock) -> None:
    with pytest.raises(EngineError, match=r"no engine for half\.onnx.*; build one with ecenet-export tensorrt DIR"):
        create_engine(model_dir, with_fp16, EngineOptions(engine="tensorrt"))


def test_without_a_gpu_the_start_fails_and_no_other_runtime_is_taken(
    model_dir: Path, with_fp16: Manifest, builds: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "detect_machine", detector(tensorrt=NO_DRIVER, tensorrt_rtx=NOT_INSTALLED))
    for wanted in ("auto", "tensorrt"):
        with pytest.raises(EngineError, match="--build-engine cannot build here: there is no usable NVIDIA GPU"):
            create_engine(model_dir, with_fp16, EngineOptions(engine=wanted, build_engine=True))
    asked = EngineOptions(engine="onnxruntime", build_engine=True, precision="fp32", num_threads=1)
    assert create_engine(model_dir, with_fp16, asked).name == "onnxruntime"
    assert builds == []


def test_second_replica_waits_for_the_first_and_reuses_its_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the real builder, which TensorRT-RTX has for machines without a GPU, and a model directory left as it is."""
    pytest.importorskip("tensorrt_rtx", reason="it comes for x86-64 only")
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    directory, folder = write_attention_model(tmp_path / "model"), tmp_path / "engines"
    manifest = read_manifest(directory)
    before = sorted(directory.iterdir())
    settings = EngineOptions(build_engine=True, engine_dir=folder)
    fake: MagicMock = create_autospec(TensorRtEngine)
    monkeypatch.setattr(create, "TensorRtEngine", fake)
    monkeypatch.setattr(create, "detect_machine", portable_machine)
    caplog.set_level(logging.INFO)
    with Awaited(f"another build in {folder} is under way; waiting for it") as it_waits:
        with building(folder, lambda: None):
            first = threading.Thread(target=create_engine, args=(directory, manifest, settings))
            first.start()
            assert it_waits.wait(HANG_S)
            fake.assert_not_called()
        first.join(HANG_S)
    info, graph = fake.call_args.args[:2]
    assert (graph.precision, info.key.machine.runtime, info.fused_attentions) == ("fp16", "tensorrt-rtx", 1)
    assert f"building {graph.file} with tensorrt-rtx" in caplog.text
    assert info.path in folder.iterdir()
    assert sorted(directory.iterdir()) == before
    caplog.clear()
    create_engine(directory, manifest, settings)
    assert fake.call_args.args[0] == info
    assert "building" not in caplog.text


def portable_machine(runtime: EngineRuntime) -> Machine:
    if runtime == "tensorrt":
        raise NOT_INSTALLED
    return detect_builder(runtime)


def write_attention_model(directory: Path) -> Path:
    """A model directory whose only graph is one attention in float16."""
    directory.mkdir()
    onnx.save(attention_graph(), directory / GRAPH_NAME)
    classes = tuple(ClassInfo(index, str(index), (0, 0, 0)) for index in range(2))
    info = GraphInfo(GRAPH_NAME, file_sha256(directory / GRAPH_NAME), (72, 90), precision="fp16")
    write_manifest(directory, Manifest("small", "1", "none", classes, (info,)))
    return directory


# The service on a machine with a GPU, whose build writes its number into a pipe and does not end.
_BUILDING_SERVICE = """if True:
    import os, sys
    from service.model_directory.machine import Machine
    from service.engines import create
    from service.engines.tensorrt import build_at_start as build
    from service.__main__ import main
    create.detect_machine = lambda runtime: Machine(runtime, "1", "L4", "8.9", "13.0")
    build.graphs_to_build = lambda *_: None
    child = "import os, sys, time; from service.engines.tensorrt.build_process import end_with_parent;"
    child += "end_with_parent(int(sys.argv[1]));"
    child += "print('timing kernels'); open(sys.argv[2], 'w').write(str(os.getpid())); time.sleep(600)"
    build.build_command = lambda *_: [sys.executable, "-u", "-c", child, str(os.getpid()), sys.argv[-1]]
    main(sys.argv[1:-1])
"""

# The same, whose build fails.
_FAILING_SERVICE = """if True:
    import sys
    from service.model_directory.machine import Machine
    from service.engines import create
    from service.engines.tensorrt import build_at_start as build
    from service.__main__ import main
    create.detect_machine = lambda runtime: Machine(runtime, "1", "L4", "8.9", "13.0")
    build.graphs_to_build = lambda *_: None
    build.build_command = lambda *_: [sys.executable, "-c", "raise SystemExit('build failed: no kernel; update it')"]
    main(sys.argv[1:])
"""


def test_failed_build_ends_the_process_with_status_1_and_one_sentence(model_dir: Path) -> None:
    command = [*python(_FAILING_SERVICE), "--port", "0", "--model-dir", str(model_dir), "--build-engine"]
    command += ["--log-level", "warning", "--exact", "false"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "ecenet-serve: no TensorRT engine could be built: no kernel; update it; to serve without TensorRT choose "
        "--engine onnxruntime-cuda, which needs CUDA and cuDNN, or --engine onnxruntime for the CPU\n"
    )
    assert not (model_dir / "engines").exists()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_service_answers_while_it_builds_and_takes_the_build_with_it(
    ending: signal.Signals, model_dir: Path, tmp_path: Path
) -> None:
    pipe, log = tmp_path / "child", tmp_path / "log"
    os.mkfifo(pipe)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ("--port", str(port), "--model-dir", str(model_dir), "--build-engine", "--exact", "false")
    command = [*python(_BUILDING_SERVICE), *options, "--engine", "tensorrt", str(pipe)]
    with log.open("wb") as stream, subprocess.Popen(command, stderr=stream) as process:
        try:
            child = int(pipe.read_text())
            assert status(port, "healthz") == 200
            assert status(port, "readyz") == 503
            process.send_signal(ending)
            assert process.wait(HANG_S) == (0 if ending == signal.SIGTERM else -signal.SIGKILL)
            wait_until_gone(child)
        finally:
            process.kill()
    assert "timing kernels" in log.read_text()


def status(port: int, path: str) -> int:
    """Status of a path, once somebody listens: the engine process builds while the workers start."""
    end = time.monotonic() + HANG_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=HANG_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that is not a child of this one."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 20)[0], f"process {pid} goes on"
    finally:
        os.close(descriptor)


def test_a_process_whose_parent_is_gone_does_not_begin() -> None:
    code = (
        "from service.engines.tensorrt.build_process import end_with_parent; end_with_parent(1 << 30); print('began')"
    )
    ended = subprocess.run(python(code), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
