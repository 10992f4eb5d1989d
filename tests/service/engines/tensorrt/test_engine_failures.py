"""Failures of the TensorRT executor while it loads, runs and closes, on a stand-in for the GPU; nothing leaks."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from service.engines import proof
from service.engines.base import EngineError
from service.engines.tensorrt import log as tensorrt_log
from service.model_directory.golden import make_golden
from service.model_directory.manifest import FileInfo, Manifest
from tests.support.brightness_model import CLASSES
from tests.support.fake_tensorrt import GRAPH, Bench, FakeTensorRt, Images

trt = pytest.importorskip("tensorrt_rtx")


ROW_BYTES = 3 * 8 * 16 * 4
CAPTURE = ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy"]


def test_close_frees_what_it_can_where_the_gpu_is_lost(bench: Bench, images: Images) -> None:
    engine = bench.load()
    engine.infer(images[:1])
    bench.cuda.fail_at = len(bench.cuda.calls) + 2
    with pytest.raises(EngineError, match="cudaEventSynchronize gave"):
        engine.close()
    assert not bench.cuda.live


def test_any_call_that_fails_while_loading_is_told_and_nothing_leaks(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    engine = bench.load()
    names = [name for name in bench.cuda.calls if name.startswith("cuda")]
    engine.close()
    assert names.count("cudaMalloc") == 5
    assert names.count("cudaHostAlloc") == 2
    ends = {index for name in set(names) for index in (names.index(name), len(names) - 1 - names[::-1].index(name))}
    for index in sorted(ends):
        name = names[index]
        if name in CAPTURE:
            continue
        bench = make_bench()
        bench.cuda.fail_at = index
        with pytest.raises(EngineError, match=f"^{name} gave cudaErrorMemoryAllocation$"):
            bench.load()
        assert not bench.cuda.live, name


def test_any_call_that_fails_in_a_run_is_told_and_the_engine_runs_on(
    make_bench: Callable[..., Bench], images: Images
) -> None:
    bench = make_bench()
    engine = bench.load()
    start = len(bench.cuda.calls)
    engine.infer(images[:3])
    names = bench.cuda.calls[start:]
    engine.close()
    for index, name in enumerate(names):
        bench = make_bench()
        engine = bench.load()
        assert len(bench.cuda.calls) == start
        bench.cuda.fail_at = start + index
        failures = []
        for _ in range(3):
            try:
                bench.check(engine, images[:3])
            except EngineError as error:
                failures.append(str(error))
        bench.check(engine, images[5:9])
        assert failures == [f"{name} gave cudaErrorMemoryAllocation"]
        engine.close()
        assert not bench.cuda.live


@pytest.mark.parametrize("name", CAPTURE)
def test_capture_that_fails_costs_the_graph_alone(
    make_bench: Callable[..., Bench], images: Images, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    bench = make_bench()
    bench.load().close()
    first = bench.cuda.calls.index(name)
    bench = make_bench()
    bench.cuda.fail_at = first
    engine = bench.load()
    if name != "cudaGraphDestroy":
        assert f"batches of 1 run without a CUDA graph: {name} gave" in caplog.text
    bench.check(engine, images[:3])
    bench.check(engine, images[:1])
    bench.check(engine, images[1:2])
    engine.close()
    assert {freed_by for freed_by, _ in bench.cuda.live} <= {name}


@pytest.mark.parametrize("number", range(8))
def test_proof_finds_the_one_graph_that_is_wrong_in_whichever_lane(
    bench: Bench, images: Images, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    execute = bench.trt.execute

    def wrong_in_one(state: SimpleNamespace, stream: int) -> bool:
        done = execute(state, stream)
        if state is bench.trt.contexts[number]:
            bench.cuda.put(stream, lambda: ctypes.memset(state.addresses["logits"], 0, state.shape[0] * ROW_BYTES))
        return done

    monkeypatch.setattr(bench.trt, "execute", wrong_in_one)
    monkeypatch.setattr(proof, "read_golden", lambda *_: make_golden(images[:3], bench.infer(images[:3]), {}))
    engine = bench.load()
    manifest = Manifest("model", "1", "none", CLASSES, (GRAPH,), golden=FileInfo("golden.npz", ""))
    size = (1, 2, 4, 8)[number % 4]
    with pytest.raises(EngineError, match=f"the tensorrt engine at batch {size} differs from PyTorch"):
        proof.prove_engine(engine, bench.info.path.parent, manifest)
    engine.close()


def test_runtime_that_does_not_start_is_told_with_its_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pybind11 does where TensorRT gives no runtime."""

    def refuse(messages: Any) -> None:
        messages.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 2")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(bench.trt, "Runtime", refuse)
    with pytest.raises(EngineError, match=r"^tensorrt cannot start: CUDA initialization failure with error: 2$"):
        bench.load()
    assert not bench.cuda.live


@pytest.mark.parametrize("method", ["create_execution_context", "set_input_shape", "set_tensor_address"])
def test_refusal_of_tensorrt_while_loading_is_told_with_its_reason(either: Bench, method: str) -> None:
    either.trt.refuse = {method}
    with pytest.raises(EngineError, match=f"cannot {method}"):
        either.load()
    assert not either.cuda.live


def test_refused_engine_is_told_with_the_reason_and_the_command_that_mends_it(either: Bench) -> None:
    messages = tensorrt_log.tensorrt_logger(either.info.key.machine.runtime)
    messages.log(trt.ILogger.Severity.ERROR, "a fault of another engine, some time ago")
    either.trt.refuse = {"deserialize_cuda_engine"}
    with pytest.raises(
        EngineError, match=r"refuses .*\.engine: cannot deserialize_cuda_engine; .*ecenet-export tensorrt DIR --force"
    ):
        either.load()


def test_failed_execution_costs_its_batch_only(make_bench: Callable[..., Bench], images: Images) -> None:
    bench = make_bench("tensorrt-rtx")
    engine = bench.load()
    bench.trt.refuse = {"execute_async_v3"}
    with pytest.raises(EngineError, match="could not run a batch of 4: cannot execute_async_v3"):
        engine.infer(images[:3])
    bench.trt.refuse = set()
    for _ in range(2):
        bench.check(engine, images[:3])
    engine.close()
    assert not bench.cuda.live


def test_engine_that_cannot_be_captured_runs_without_a_graph(
    bench: Bench, images: Images, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = bench.trt.execute

    def refuse_in_capture(state: SimpleNamespace, stream: int) -> bool:
        return bench.cuda.captured is None and execute(state, stream)

    monkeypatch.setattr(bench.trt, "execute", refuse_in_capture)
    engine = bench.load()
    for _ in range(3):
        bench.check(engine, images[:3])
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 8
    assert "batches of 4 run without a CUDA graph: tensorrt could not run a batch of 4" in caplog.text
    assert bench.cuda.launches == 0
    engine.close()
    assert not bench.cuda.live


def _set(attribute: str, **values: Any) -> Callable[[FakeTensorRt], None]:
    return lambda fake: getattr(fake, attribute).update(values)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_set("dtypes", images=trt.DataType.FLOAT), "input is images FLOAT .* manifest asks for one UINT8 of"),
        (_set("shapes", images=(-1, 64, 32, 3)), r"input is images UINT8 \(-1, 64, 32, 3\), .*\(B, 32, 64, 3\)"),
        (_set("shapes", images=()), "input is images"),
        (_set("modes", images=trt.TensorIOMode.OUTPUT), "input is absent"),
        (_set("modes", logits=trt.TensorIOMode.INPUT), "input is images UINT8 .*, logits FLOAT"),
        (_set("dtypes", logits=trt.DataType.HALF), "output is logits HALF .* manifest asks for one FLOAT of"),
        (_set("shapes", logits=(-1, 11, 8, 16)), r"output is logits FLOAT \(-1, 11, 8, 16\), .*\(B, 3, 8, 16\)"),
        (
            lambda fake: fake.profiles.append((1, 1, 1)),
            r"for batches \[\(1, 8\), \(1, 1\)\], expected one",
        ),
    ],
)
def test_engine_that_is_not_what_the_manifest_says_is_refused(
    bench: Bench, change: Callable[[FakeTensorRt], None], text: str
) -> None:
    change(bench.trt)
    with pytest.raises(EngineError, match=text):
        bench.load()
    assert not bench.cuda.live


def test_output_whose_shape_shows_only_when_it_runs_is_checked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.trt.shapes["logits"] = (-1, 3, -1, -1)
    with pytest.raises(EngineError, match=r"logits is \(1, 3, -1, -1\) for a batch of 1, .* \(1, 3, 8, 16\)"):
        bench.load()
    assert not bench.cuda.live


def test_changed_file_is_not_given_to_tensorrt(bench: Bench) -> None:
    bench.info.path.write_bytes(b"another plan")
    with pytest.raises(EngineError, match="the file was changed after the build"):
        bench.load()
    assert bench.trt.logger is None


def test_missing_file_is_told(bench: Bench) -> None:
    bench.info.path.unlink()
    with pytest.raises(EngineError, match=r"No such file .*\.engine"):
        bench.load()
