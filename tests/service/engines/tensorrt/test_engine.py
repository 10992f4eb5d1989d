"""The TensorRT executor: padding, order of rows, replay and freeing, on a stand-in for the GPU."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.base import DeviceTimed, DirectEngine, EngineError, unfused_attentions, warm_up
from service.engines.tensorrt import engine as tensorrt_engine
from service.engines.tensorrt import log as tensorrt_log
from service.model_directory.machine import Machine
from tests.support.brightness_model import brightness_logits
from tests.support.fake_cuda import WORK_MS
from tests.support.fake_tensorrt import Bench, Images
from tests.support.limits import HANG_S

trt = pytest.importorskip("tensorrt_rtx")


def test_rows_of_every_batch_size_are_those_of_the_images_in_order(either: Bench, images: Images) -> None:
    engine = either.load()
    for _ in range(2):
        for size in range(1, 9):
            either.check(engine, images[size : 2 * size])
    assert either.trt.batches == [1, 2, 4, 4, 8, 8, 8, 8] * 2
    engine.close()


def test_batches_at_once_keep_their_images_and_rows_in_whatever_order_the_streams_go_on(
    either: Bench, images: Images
) -> None:
    engine = either.load()
    assert isinstance(engine, DirectEngine)

    def run(numbers: Sequence[int]) -> NDArray[np.float32]:
        outputs = np.full((len(numbers), 3, 8, 16), np.nan, np.float32)
        engine.infer_into([images[number].copy() for number in numbers], list(outputs))
        return outputs

    batches = [[(start + step) % 19 for step in range(1 + start % 11)] for start in range(12)]
    expected = [either.infer(images[numbers]) for numbers in batches]
    with ThreadPoolExecutor(3) as threads:
        for either.cuda.preferred, either.cuda.is_eager in product(permutations(range(3)), (False, True)):
            for outputs, rows in zip(threads.map(run, batches), expected, strict=True):
                np.testing.assert_array_equal(outputs, rows)
    engine.close()
    assert not either.cuda.live


def test_images_are_copied_while_the_batch_before_them_runs(bench: Bench, images: Images) -> None:
    """Both batches are on the streams before anybody waits for the first."""
    engine = bench.load()
    outputs = np.zeros((2, 2, 3, 8, 16), np.float32)
    together = threading.Barrier(2)
    bench.cuda.before_wait = lambda: together.wait(HANG_S)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda index: engine.infer_into(list(images[:2]), list(outputs[index])), range(2)))
    bench.cuda.before_wait = None
    for rows in outputs:
        np.testing.assert_array_equal(rows, bench.infer(images[:2]))
    engine.close()


def test_memory_is_pinned_until_it_is_gone(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    engine = bench.load()
    memory = np.zeros((32, 64, 3), np.uint8)
    engine.pin(memory)
    address = memory.ctypes.data
    assert bench.cuda.live["cudaHostUnregister", address] == memory.nbytes
    del memory
    assert ("cudaHostUnregister", address) not in bench.cuda.live
    bench.cuda.fail_at = len(bench.cuda.calls) + 1
    engine.pin(np.zeros(8, np.uint8))
    assert "memory of 8 bytes is not pinned, its copies are slow: cudaHostRegister gave" in caplog.text
    engine.close()


@pytest.mark.parametrize(
    ("image", "output", "text"),
    [
        (np.zeros((32, 64, 4), np.uint8), np.zeros((3, 8, 16), np.float32), "images are uint8 (32, 64, 4), expected"),
        (np.zeros((32, 64, 3), np.uint8), np.zeros((3, 8, 16), np.float16), "outputs are float16 (3, 8, 16), expected"),
        (np.zeros((64, 32, 3), np.uint8).swapaxes(0, 1), np.zeros((3, 8, 16), np.float32), "contiguous"),
    ],
)
def test_other_memory_is_refused_before_the_gpu_copies_it(bench: Bench, image: Any, output: Any, text: str) -> None:
    engine = bench.load()
    with pytest.raises(EngineError, match=re.escape(text)):
        engine.infer_into([image], [output])
    assert bench.trt.batches == []
    engine.close()
    with pytest.raises(EngineError, match="the tensorrt engine is closed"):
        engine.infer_into([np.zeros((32, 64, 3), np.uint8)], [np.zeros((3, 8, 16), np.float32)])


def test_engine_states_what_it_takes(either: Bench) -> None:
    engine = either.load()
    assert (engine.name, engine.graph, engine.num_classes) == (either.info.key.machine.runtime, either.graph, 3)
    assert (engine.max_batch_size, engine.warm_up_sizes) == (8, (1, 2, 4, 8))
    warm_up(engine)
    assert either.trt.batches == [1, 2, 4, 8]
    engine.close()


def test_attentions_that_are_not_seen_as_fused_are_a_warning_and_no_error(
    bench: Bench, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    engine = bench.load()
    assert unfused_attentions(engine) == 0
    engine.close()
    assert "not recognised as fused" not in caplog.text
    bench.info = replace(bench.info, fused_attentions=1)
    engine = bench.load()
    assert unfused_attentions(engine) == 2
    assert "2 of 3 attentions of " in caplog.text
    bench.check(engine, images[:2])
    engine.close()


def test_network_alone_is_timed_on_the_gpu_without_copies(either: Bench, images: Images) -> None:
    engine = either.load()
    assert isinstance(engine, DeviceTimed)
    engine.infer(images[:4])
    either.trt.batches.clear()
    assert engine.device_milliseconds(4, 3) == [WORK_MS] * 3
    assert either.trt.batches == [4, 4, 4]
    either.check(engine, images[:4])
    engine.close()
    assert not either.cuda.live


def test_layers_are_those_of_the_inspector(either: Bench) -> None:
    engine = either.load()
    either.trt.layer_report = (
        "Layers:\nName: a_mha_b, LayerType: kgen, Inputs: [], StreamId: 0, Metadata: [ONNX Layer: a]"
    )
    (layer,) = engine.layers()
    assert (layer.kind, layer.is_fused_attention, engine.info) == ("kgen", True, either.info)
    engine.close()


def test_limit_on_the_batch_size_prepares_no_more_than_that(bench: Bench, images: Images) -> None:
    engine = bench.load(max_batch_size=3)
    assert (engine.max_batch_size, engine.warm_up_sizes) == (3, (1, 2, 3))
    bench.check(engine, images[:3])
    assert len(bench.trt.contexts) == 3 * engine.batches_at_once
    engine.close()


@pytest.mark.parametrize(("limit", "sizes"), [(None, (1, 2, 4, 8)), (3, (1, 2)), (4, (1, 2, 4))])
def test_each_size_is_run_by_its_own_profile(
    bench: Bench, images: Images, limit: int | None, sizes: tuple[int, ...]
) -> None:
    bench.trt.profiles = [(size, size, size) for size in (8, 1, 4, 2)]  # in whatever order
    engine = bench.load(max_batch_size=limit)
    assert (engine.warm_up_sizes, engine.max_batch_size) == (sizes, sizes[-1])
    assert [context.profile for context in bench.trt.contexts] == [{8: 0, 1: 1, 4: 2, 2: 3}[size] for size in sizes] * 2
    for _ in range(2):
        for count in (1, 2, 3, 5):
            bench.check(engine, images[:count])
    engine.close()
    assert not bench.cuda.live


def test_refused_profile_is_told_with_its_reason(bench: Bench) -> None:
    bench.trt.profiles = [(1, 1, 1), (2, 2, 2)]
    bench.trt.refuse = {"set_optimization_profile_async"}
    with pytest.raises(EngineError, match="refuses profile 1 for batches of 2: cannot set_optimization_profile_async"):
        bench.load()
    assert not bench.cuda.live


def test_more_images_than_the_profile_holds_are_run_in_turn(either: Bench, images: Images) -> None:
    engine = either.load()
    either.check(engine, images)
    assert either.trt.batches == [8, 8, 4]
    engine.close()


def test_rows_are_a_copy_that_the_next_batch_leaves_alone(bench: Bench, images: Images) -> None:
    engine = bench.load()
    first = engine.infer(images[:2])
    engine.infer(images[2:4])
    engine.close()
    np.testing.assert_array_equal(first, bench.infer(images[:2]))


def test_tensorrt_replays_a_graph_for_each_size(bench: Bench, images: Images) -> None:
    engine = bench.load()
    assert bench.cuda.calls.count("cudaStreamBeginCapture") == 4 * engine.batches_at_once
    for size in (3, 4, 2, 3):
        bench.check(engine, images[:size])
    assert bench.cuda.launches == 4
    before = len(bench.cuda.calls)
    bench.check(engine, images[4:8])
    assert bench.cuda.calls[before:] == [
        "cudaSetDevice",
        *["cudaMemcpyAsync"] * 4,
        *["cudaEventRecord", "cudaStreamWaitEvent"],
        "cudaGraphLaunch",
        *["cudaEventRecord", "cudaStreamWaitEvent"],
        *["cudaMemcpyAsync"] * 4,
        *["cudaEventRecord", "cudaEventSynchronize"],
    ]
    engine.close()


def test_contexts_of_tensorrt_are_one_per_size_and_share_their_memory(bench: Bench) -> None:
    engine = bench.load()
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    assert [context.strategy for context in bench.trt.contexts] == [strategy] * 8
    assert [context.shape[0] for context in bench.trt.contexts] == [1, 2, 4, 8] * 2
    assert len({context.memory for context in bench.trt.contexts}) == 1
    engine.close()


def test_tensorrt_rtx_captures_by_itself_in_one_context_a_lane(
    make_bench: Callable[..., Bench], images: Images
) -> None:
    bench = make_bench("tensorrt-rtx")
    engine = bench.load()
    for size in (3, 4, 3):
        bench.check(engine, images[:size])
    (config,) = bench.trt.configs
    assert [context.strategy for context in bench.trt.contexts] == [config] * engine.batches_at_once
    assert config.cuda_graph_strategy == trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    assert config.dynamic_shapes_kernel_specialization_strategy == eager
    assert "cudaStreamBeginCapture" not in bench.cuda.calls
    engine.close()


def test_labels_come_as_the_graph_says(make_bench: Callable[..., Bench], images: Images) -> None:
    bench = make_bench("tensorrt", lambda batch: batch.max(axis=(3,)))
    bench.trt.dtypes["logits"] = trt.DataType.UINT8
    bench.trt.shapes["logits"] = (-1, 32, 64)
    engine = bench.load(replace(bench.graph, output="labels", output_stride=1))
    rows = engine.infer(images[:3])
    assert (rows.dtype, rows.shape) == (np.uint8, (3, 32, 64))
    np.testing.assert_array_equal(rows, images[:3].max(axis=3))
    engine.close()


def test_logits_in_half_precision_come_as_they_are(make_bench: Callable[..., Bench], images: Images) -> None:
    bench = make_bench("tensorrt", lambda batch: brightness_logits(batch).astype(np.float16))
    bench.trt.dtypes["logits"] = trt.DataType.HALF
    engine = bench.load(replace(bench.graph, precision="fp16", logits_type="float16"))
    rows = engine.infer(images[:3])
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows, brightness_logits(images[:3]).astype(np.float16))
    outputs = [np.zeros(rows.shape[1:], np.float16) for _ in range(3)]
    engine.infer_into(list(images[:3]), outputs)
    np.testing.assert_array_equal(np.stack(outputs), rows)
    engine.close()


def test_other_images_are_refused_before_they_reach_the_gpu(bench: Bench, images: Images) -> None:
    engine = bench.load()
    wrong: Any
    for wrong, text in (
        (images[:1].astype(np.float32), r"float32 \(1, 32, 64, 3\)"),
        (images[:1, :, :1], r"uint8 \(1, 32, 1, 3\)"),
        (images[0], r"uint8 \(32, 64, 3\)"),
        (images[:0], r"uint8 \(0, 32, 64, 3\)"),
    ):
        with pytest.raises(EngineError, match=rf"images are {text}, expected uint8 \(B, 32, 64, 3\) with B >= 1"):
            engine.infer(wrong)
    assert bench.trt.batches == []
    engine.close()


def test_thread_that_runs_need_not_be_the_one_that_loaded(bench: Bench, images: Images) -> None:
    engine = bench.load()
    for step in (lambda: bench.check(engine, images[:2]), engine.close):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
        assert bench.cuda.threads[-1] != threading.get_ident()
    assert not bench.cuda.live


def test_close_waits_and_frees_all_in_order_and_once(bench: Bench, images: Images) -> None:
    engine = bench.load()
    for size in (1, 2, 4, 8, 1):
        engine.infer(images[:size])
    before = len(bench.cuda.calls)
    engine.close()
    assert bench.cuda.calls[before:] == [
        "cudaSetDevice",
        *["cudaEventRecord", "cudaEventSynchronize"] * 3,
        *["cudaGraphExecDestroy"] * 8,
        *["drop context"] * 8,
        *["drop engine", "drop runtime"],
        "cudaFree",
        *["cudaEventDestroy", "cudaEventDestroy", "cudaEventDestroy", "cudaFree", "cudaFree"] * 2,
        *["cudaFreeHost", "cudaFreeHost"],
        *["cudaStreamDestroy"] * 3,
    ]
    assert not bench.cuda.live
    engine.close()
    assert bench.cuda.calls[-1] == "cudaStreamDestroy"
    with pytest.raises(EngineError, match="the tensorrt engine is closed"):
        engine.infer(images[:1])


def test_tensorrt_itself_takes_the_logger_and_its_reason_reaches_the_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real package, which refuses a file that is not an engine, with or without a GPU."""
    monkeypatch.setattr(tensorrt_engine, "runtime_module", lambda _: trt)
    monkeypatch.setattr(tensorrt_log, "runtime_module", lambda _: trt)
    bench.info = replace(bench.info, key=replace(bench.info.key, machine=Machine("tensorrt-rtx", "1")))
    with pytest.raises(EngineError, match=r"tensorrt-rtx refuses .*\.engine: .*Error Code"):
        bench.load()


def test_stand_ins_refuse_what_tensorrt_has_not(strict_fake: Callable[..., Any]) -> None:
    context = strict_fake(trt.IExecutionContext, set_tensor_address=lambda *_: True)
    assert context.set_tensor_address("images", 5)
    for wrong in (("images",), (5, "images"), ("images", 5, 6), ("images", b"5")):
        with pytest.raises(TypeError, match="fits none of"):
            context.set_tensor_address(*wrong)
    with pytest.raises(AttributeError):
        context.set_tensor_adress("images", 5)
    with pytest.raises(AssertionError, match="execute_v2 was not expected"):
        context.execute_v2([])
    with pytest.raises(AttributeError):
        strict_fake(trt.IRuntimeConfig).graph_strategy = 1
