"""The build of an engine at the start: for which runtime and graph, its log, and its failures."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from service.engines.base import EngineError
from service.engines.options import EngineOptions
from service.engines.runtimes import EngineName
from service.engines.tensorrt.build import BuildOptions
from service.engines.tensorrt.build_at_start import (
    build_command,
    build_options,
    failure,
    is_wanted,
    run_build,
    usable_runtime,
)
from service.engines.tensorrt.build_process import BuildRequest
from service.model_directory.machine import MachineError, RuntimeMissingError
from service.model_directory.manifest import (
    Manifest,
)
from tests.support.limits import HANG_S
from tests.support.machines import NO_DRIVER, NOT_INSTALLED, Awaited, detector, python


@pytest.mark.parametrize(
    ("wanted", "tensorrt", "tensorrt_rtx", "expected"),
    [
        ("auto", None, None, "tensorrt"),
        ("auto", NO_DRIVER, None, "tensorrt-rtx"),
        ("tensorrt-rtx", None, None, "tensorrt-rtx"),
        ("tensorrt", None, None, "tensorrt"),
    ],
)
def test_runtime_that_is_built_for_is_the_first_with_a_gpu_or_the_one_that_is_named(
    wanted: EngineName, tensorrt: MachineError | None, tensorrt_rtx: MachineError | None, expected: str
) -> None:
    assert usable_runtime(wanted, detector(tensorrt=tensorrt, tensorrt_rtx=tensorrt_rtx)) == expected


@pytest.mark.parametrize(
    ("wanted", "tensorrt", "tensorrt_rtx", "told"),
    [
        ("tensorrt", NOT_INSTALLED, None, str(NOT_INSTALLED)),
        ("auto", NO_DRIVER, RuntimeMissingError("tensorrt-rtx is not installed"), str(NO_DRIVER)),
        ("auto", NOT_INSTALLED, NO_DRIVER, str(NO_DRIVER)),
        ("auto", NOT_INSTALLED, RuntimeMissingError("tensorrt-rtx is not installed"), str(NOT_INSTALLED)),
    ],
)
def test_without_a_gpu_it_tells_what_is_missing_and_what_may_be_asked_for(
    wanted: EngineName, tensorrt: MachineError | None, tensorrt_rtx: MachineError | None, told: str
) -> None:
    with pytest.raises(EngineError) as caught:
        usable_runtime(wanted, detector(tensorrt=tensorrt, tensorrt_rtx=tensorrt_rtx))
    assert str(caught.value) == (
        f"--build-engine cannot build here: {told}; to serve without TensorRT choose --engine onnxruntime-cuda, "
        "which needs CUDA and cuDNN, or --engine onnxruntime for the CPU"
    )


def test_other_runtimes_and_named_engines_need_no_build(tmp_path: Path) -> None:
    assert is_wanted(EngineOptions(build_engine=True), "auto")
    assert is_wanted(EngineOptions(build_engine=True), "tensorrt-rtx")
    assert not is_wanted(EngineOptions(), "tensorrt")
    for other in ("onnxruntime", "onnxruntime-cuda", "openvino"):
        assert not is_wanted(EngineOptions(build_engine=True), other)
    assert not is_wanted(EngineOptions(build_engine=True, engine_file=tmp_path / "a.engine"), "tensorrt")


def test_what_is_built_is_the_graph_that_would_serve(with_fp16: Manifest) -> None:
    options = build_options(with_fp16, "tensorrt", EngineOptions())
    assert options == BuildOptions("tensorrt", ((32, 64),), "fp16", 8)
    assert build_options(with_fp16, "tensorrt-rtx", EngineOptions(max_batch_size=16)).max_batch_size == 16
    command = build_command(Path("model"), Path("engines"), options)
    assert command[1:5] == ["-u", "-m", "service.engines.tensorrt.build_process", str(os.getpid())]
    assert BuildRequest.from_json(command[5]) == BuildRequest(Path("model"), Path("engines"), options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp32"}, "TensorRT does not fuse attention in fp32; choose fp16 or int8"),
        ({"precision": "int8"}, "has no int8 graph of 32x64 .*write it with ecenet-export quantize"),
        ({"input_size": (96, 96)}, "has no fp16 graph of 96x96 .*--size 96x96 --precision fp32 --precision fp16"),
    ],
)
def test_a_graph_that_cannot_be_built_from_is_told_before_anything_runs(
    with_fp16: Manifest, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=f"--build-engine cannot build an engine: .*{message}"):
        build_options(with_fp16, "tensorrt", EngineOptions(**settings))


def test_bf16_is_not_built(with_fp16: Manifest) -> None:
    with pytest.raises(EngineError, match="--engine tensorrt cannot be used: it does not compute in bf16"):
        build_options(with_fp16, "tensorrt", EngineOptions(precision="bf16"))


def test_lines_of_the_build_are_logged_as_they_come_and_silence_is_filled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = tmp_path / "go-on"
    os.mkfifo(go_on)
    code = f"print('timing kernels'); open({str(go_on)!r}).read(); print('built')"
    with caplog.at_level(logging.INFO), Awaited("timing kernels; 0 s so far") as silence_was_filled:
        runner = threading.Thread(target=run_build, args=(python(code), 0.05))
        runner.start()
        assert silence_was_filled.wait(HANG_S)
        go_on.write_text("now")
        runner.join(HANG_S)
    messages = [record.getMessage() for record in caplog.records]
    assert messages.index("timing kernels") < messages.index("timing kernels; 0 s so far") < messages.index("built")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import sys; print('parsing'); sys.exit('build failed: TensorRT does not parse it; update TensorRT')",
            "TensorRT does not parse it; update TensorRT",
        ),
        ("import sys; print('something odd'); sys.exit(3)", "the build ended with status 3: something odd"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "signal 9 ended the build (9: probably out of memory)",
        ),
    ],
)
def test_failed_build_is_one_sentence_with_the_way_out(code: str, reason: str) -> None:
    with pytest.raises(EngineError) as caught:
        run_build(python(code))
    assert str(caught.value) == (
        f"no TensorRT engine could be built: {reason}; to serve without TensorRT choose --engine onnxruntime-cuda, "
        "which needs CUDA and cuDNN, or --engine onnxruntime for the CPU"
    )


def test_the_last_complaint_counts() -> None:
    assert failure(1, ["build failed: a", "noise", "build failed: b", "noise"]) == "b"
