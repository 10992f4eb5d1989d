"""Building engines: which graphs, for which machine, under which key; what is reused; and the calls of TensorRT."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from model_export.__main__ import main
from service.engines.tensorrt import build as tensorrt_build
from service.engines.tensorrt.build import (
    BuildError,
    BuildOptions,
    build_engines,
    builder_machine,
    engine_key,
    graphs_to_build,
    heartbeat,
    target_machine,
    timing_cache_path,
)
from service.engines.tensorrt.compile import (
    CompileError,
    Log,
    Plan,
    capability_members,
    compile_plan,
    network_flags,
    profiles_of,
)
from service.engines.tensorrt.layer_report import parse_layers
from service.model_directory.engine_store import find_engine
from service.model_directory.machine import Machine, MachineError, detect_builder, runtime_module
from service.model_directory.manifest import ClassInfo, GraphInfo, Manifest, file_sha256, read_manifest, write_manifest
from tests.support.attention_graph import attention_graph
from tests.support.limits import HANG_S

L4 = Machine("tensorrt", "10.14.1", "NVIDIA L4", "8.9", "13.0")
RTX = BuildOptions(runtime="tensorrt-rtx", require_fused=True)
REPORT = "Layers:\nName: a_mha_b, LayerType: kgen, Inputs: [], StreamId: 0, Metadata: [ONNX Layer: a]"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECENET_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def rtx() -> Any:
    return runtime_module("tensorrt-rtx")


@pytest.fixture
def attention() -> bytes:
    """A graph with one attention of float16."""
    return attention_graph().SerializeToString()


@pytest.fixture
def attention_dir(attention: bytes, tmp_path: Path) -> Path:
    """A model directory with that graph, as one of 72x90, and a float32 one of the same size."""
    directory = tmp_path / "model"
    directory.mkdir()
    graphs = []
    for precision in ("fp32", "fp16"):
        path = directory / f"{precision}.onnx"
        path.write_bytes(attention)
        graphs.append(GraphInfo(path.name, file_sha256(path), (72, 90), precision=precision))
    classes = tuple(ClassInfo(index, str(index), (0, 0, 0)) for index in range(11))
    write_manifest(directory, Manifest("small", "1", "none", classes, tuple(graphs)))
    return directory


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0, expected 1 or more"),
        ({"precision": "fp32"}, "TensorRT does not fuse attention in fp32; choose fp16 or int8"),
    ],
)
def test_options_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        BuildOptions(**fields)


def test_nothing_heavy_is_loaded_before_a_build() -> None:
    """A serving install may look for engines without ONNX, PyTorch or any TensorRT."""
    heavy = ("torch", "onnx", "numpy", "tensorrt", "tensorrt_rtx", "cuda")
    code = f"import sys, service.engines.tensorrt.build; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_profile_is_best_at_a_full_batch() -> None:
    assert BuildOptions().profile == (1, 8, 8)
    assert BuildOptions(max_batch_size=4).profile == (1, 4, 4)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_tensorrt_gets_a_profile_per_batch_size_and_rtx_one(rtx: Any, attention: bytes) -> None:
    """Kernels that are best for eight images are not for one. TensorRT-RTX chooses where the engine runs."""
    assert profiles_of(L4, (1, 8, 8)) == [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8)]
    assert profiles_of(L4, (1, 3, 3)) == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    assert profiles_of(replace(L4, runtime="tensorrt-rtx"), (1, 8, 8)) == [(1, 8, 8)]
    report = parse_layers(compile_plan(rtx, attention, L4, (1, 2, 2)).layer_report)
    assert {layer.is_fused_attention for layer in report} >= {True}
    key = engine_key(GraphInfo("model.onnx", "a", (32, 64)), L4, (1, 8, 8), require_fused=True)
    assert "profile-per-size" in key.flags


@pytest.fixture
def several(manifest: Manifest) -> Manifest:
    forms = [((32, 64), "fp32"), ((32, 64), "fp16"), ((64, 128), "fp16"), ((32, 64), "int8"), ((96, 96), "fp32")]
    graphs = [GraphInfo(f"{size}-{name}.onnx", "0", size, precision=name) for size, name in forms]  # type: ignore[arg-type]
    return replace(manifest, graphs=tuple(graphs))


def test_every_size_has_its_graph(several: Manifest) -> None:
    fp16 = replace(several, graphs=several.graphs[:3])
    assert graphs_to_build(fp16, (), "fp16") == [several.graphs[1], several.graphs[2]]
    assert graphs_to_build(several, ((64, 128),), "fp16") == [several.graphs[2]]
    assert graphs_to_build(several, ((32, 64), (32, 64)), "int8") == [several.graphs[3]]


def test_a_missing_graph_is_told_with_the_command_that_writes_it(several: Manifest) -> None:
    with pytest.raises(BuildError, match=r"no fp16 graph of 96x96 .*--size 96x96 --precision fp32 --precision fp16"):
        graphs_to_build(several, (), "fp16")
    with pytest.raises(BuildError, match=r"it has 32x64 fp32, 32x64 fp16, .*--calibration IMAGES --precision int8"):
        graphs_to_build(several, ((64, 128), (96, 96)), "int8")


def test_auto_takes_the_first_that_can_build_and_nothing_else_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    there: dict[str, Machine] = {}

    def detect(runtime: str) -> Machine:
        if runtime not in there:
            raise MachineError(f"{runtime} is missing")
        return there[runtime]

    monkeypatch.setattr(tensorrt_build, "detect_builder", detect)
    with pytest.raises(
        MachineError, match="no TensorRT can be used here: tensorrt is missing; tensorrt-rtx is missing"
    ):
        builder_machine("auto")
    there["tensorrt-rtx"] = Machine("tensorrt-rtx", "1.7")
    assert builder_machine("auto").runtime == "tensorrt-rtx"
    with pytest.raises(MachineError, match=r"^tensorrt is missing"):
        builder_machine("tensorrt")
    there["tensorrt"] = L4
    assert builder_machine("auto") == L4


def test_the_key_tells_engines_apart() -> None:
    graph = GraphInfo("m.onnx", "a" * 64, (32, 64), precision="fp16")
    key = engine_key(graph, L4, (1, 8, 8), require_fused=True)
    assert (key.graph_sha256, key.machine, key.profile) == ("a" * 64, L4, (1, 8, 8))
    others = [
        engine_key(replace(graph, sha256="b"), L4, (1, 8, 8), require_fused=True),
        engine_key(graph, replace(L4, driver_version="13.1"), (1, 8, 8), require_fused=True),
        engine_key(graph, L4, (1, 4, 8), require_fused=True),
        engine_key(graph, L4, (1, 8, 8), require_fused=False),
    ]
    assert len({key.digest(), *(other.digest() for other in others)}) == 5


def test_a_new_way_to_copy_the_graph_makes_new_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GraphInfo("m.onnx", "a" * 64, (32, 64))
    before = engine_key(graph, L4, (1, 8, 8), require_fused=True)
    monkeypatch.setattr("service.engines.tensorrt.graph.COPY_VERSION", 1000)
    assert engine_key(graph, L4, (1, 8, 8), require_fused=True) != before


def test_int8_is_not_built_for_turing_nor_fp8_before_ada() -> None:
    portable = Machine("tensorrt-rtx", "1.7", compute_capability="7.5,8.0,8.9,12.0")
    assert target_machine(portable, "fp16") == portable
    assert target_machine(portable, "int8").compute_capability == "8.0,8.9,12.0"
    assert target_machine(portable, "fp8").compute_capability == "8.9,12.0"
    turing = replace(portable, gpu_name="Tesla T4", compute_capability="7.5")
    assert target_machine(turing, "int8") == turing


def test_timing_caches_are_never_shared_between_versions_or_gpus(tmp_path: Path) -> None:
    assert timing_cache_path(tmp_path, L4) == tmp_path / "tensorrt-10.14.1-NVIDIA-L4-8.9.timing"
    other = [replace(L4, runtime_version="10.15"), replace(L4, gpu_name="NVIDIA A10"), replace(L4, gpu_name="../../L4")]
    paths = {timing_cache_path(tmp_path, machine) for machine in other}
    assert len(paths) == 3
    assert {path.parent for path in paths} == {tmp_path}


def test_graphs_are_strongly_typed_where_that_has_to_be_said(rtx: Any) -> None:
    bit = int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert network_flags(rtx) == 1 << bit
    assert network_flags(SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1))) == 2
    assert network_flags(SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())) == 0


def test_rtx_is_told_the_gpus_that_it_builds_for(rtx: Any) -> None:
    any_gpu = detect_builder("tensorrt-rtx")
    members = [member.name for member in capability_members(rtx, any_gpu)]
    assert members == ["SM75", "SM80", "SM86", "SM89", "SM120", "SM121"]
    assert capability_members(rtx, replace(L4, runtime="tensorrt-rtx")) == [rtx.ComputeCapability.SM89]
    assert capability_members(SimpleNamespace(), L4) == []
    hopper = replace(L4, runtime="tensorrt-rtx", runtime_version="1.7", gpu_name="H100", compute_capability="9.0")
    with pytest.raises(MachineError, match=r"RTX 1\.7 does not build for compute capability 9\.0, the one of the H100"):
        capability_members(rtx, hopper)


def test_the_log_keeps_what_is_asked_for_alone() -> None:
    log = Log()
    assert log.reason() == "TensorRT gives no reason"
    for message in ("Timing a tactic", REPORT, "Total Activation Memory: 1674277376 bytes", ""):
        log.add(message, is_error=False)
    log.add("first\nmore of it", is_error=True)
    log.add("", is_error=True)
    assert (log.layer_report, log.memory_bytes, log.errors) == (
        REPORT,
        1674277376,
        ["first", "an error without a text"],
    )
    assert log.reason() == "first"


def test_the_inspector_is_asked_where_the_log_has_no_report(
    attention: bytes, rtx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, runtime = (create_autospec(kind, instance=True) for kind in (rtx.ICudaEngine, rtx.Runtime))
    inspector = create_autospec(rtx.EngineInspector, instance=True)
    runtime.deserialize_cuda_engine.return_value = engine
    engine.create_engine_inspector.return_value = inspector
    inspector.get_engine_information.return_value = REPORT
    monkeypatch.setattr("service.engines.tensorrt.compile.is_report", lambda _: False)
    monkeypatch.setattr(rtx, "Runtime", lambda _: runtime)
    plan = compile_plan(rtx, attention, detect_builder("tensorrt-rtx"), (1, 8, 8))
    assert plan.layer_report == REPORT
    runtime.deserialize_cuda_engine.assert_called_once_with(plan.content)
    inspector.get_engine_information.assert_called_once_with(rtx.LayerInformationFormat.ONELINE)


def test_a_builder_that_does_not_start_is_told_with_its_reason(
    attention: bytes, rtx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pybind11 does where TensorRT gives no builder."""

    def refuse(logger: Any) -> None:
        logger.log(rtx.ILogger.Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 2")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(rtx, "Builder", refuse)
    with pytest.raises(CompileError, match=r"^TensorRT cannot start: CUDA initialization failure with error: 2$"):
        compile_plan(rtx, attention, L4, (1, 8, 8))


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_tensorrt_keeps_a_timing_cache(content: bytes | None, attention: bytes, rtx: Any) -> None:
    """By the calls of ``tensorrt``, which ``tensorrt_rtx`` has too, though they do nothing there."""
    plan = compile_plan(rtx, attention, L4, (1, 8, 8), content)
    assert plan.timing_cache
    assert len(plan.content) > 1000


def test_a_timing_cache_of_another_machine_is_dropped(rtx: Any) -> None:
    from service.engines.tensorrt.compile import set_timing_cache  # noqa: PLC0415

    config = create_autospec(rtx.IBuilderConfig, instance=True)
    config.set_timing_cache.side_effect = [False, True]
    config.create_timing_cache.side_effect = ["theirs", "empty"]
    assert set_timing_cache(config, L4, b"theirs")
    assert [call.args for call in config.create_timing_cache.call_args_list] == [(b"theirs",), (b"",)]
    assert [call.args for call in config.set_timing_cache.call_args_list] == [("theirs", False), ("empty", False)]


def test_rtx_keeps_no_timing_cache(attention: bytes, rtx: Any) -> None:
    assert compile_plan(rtx, attention, detect_builder("tensorrt-rtx"), (1, 8, 8)).timing_cache is None


def test_timings_of_a_build_are_there_for_the_next(
    attention_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = []

    def compile_with(trt: Any, graph: bytes, machine: Machine, profile: Any, cache: bytes | None) -> Any:
        caches.append(cache)
        nodes = [node.name for node in onnx.load_from_string(graph).graph.node if node.op_type == "Attention"]
        lines = [REPORT.partition("\n")[2].replace("Layer: a]", f"Layer: {name}]") for name in nodes]
        return Plan(b"plan", "\n".join(["Layers:", *lines]), None, b"timings")

    monkeypatch.setattr(tensorrt_build, "detect_builder", lambda _: L4)
    monkeypatch.setattr(tensorrt_build, "load_runtime", lambda _: None)
    monkeypatch.setattr(tensorrt_build, "compile_plan", compile_with)
    options = BuildOptions(runtime="tensorrt", force=True)
    for _ in range(2):
        (report,) = build_engines(attention_dir, tmp_path / "engines", options)
    assert caches == [None, b"timings"]
    assert report.fusion is not None
    assert (report.fusion.fused_saus, report.info.key.machine) == (1, L4)
    assert (tmp_path / "engines" / "tensorrt-10.14.1-NVIDIA-L4-8.9.timing").read_bytes() == b"timings"


def test_an_engine_is_built_once_and_reused_until_something_changes(attention_dir: Path, tmp_path: Path) -> None:
    folder, lines = tmp_path / "engines", list[str]()
    (report,) = build_engines(attention_dir, folder, RTX, lines.append)
    graph = next(graph for graph in read_manifest(attention_dir).graphs if graph.precision == "fp16")
    assert lines[0].startswith(f"building {graph.file} with tensorrt-rtx 1.7.1.116")
    assert report.fusion is not None
    assert (report.fusion.saus, report.fusion.fused_saus, report.graph) == (1, 1, graph)
    assert (report.plan_bytes, report.seconds > 0) == (report.info.path.stat().st_size, True)
    info = report.info
    assert (info.input_size, info.precision, info.num_classes, info.max_batch_size) == ((72, 90), "fp16", 11, 8)
    assert (info.attentions, info.fused_attentions, info.output_stride) == (1, 1, 4)
    assert find_engine(folder, graph, detect_builder("tensorrt-rtx")) == info

    lines.clear()
    (again,) = build_engines(attention_dir, folder, RTX, lines.append)
    assert (again.info, again.fusion, again.seconds, lines) == (info, None, 0.0, [])
    (fused_does_too,) = build_engines(attention_dir, folder, replace(RTX, require_fused=False))
    assert fused_does_too.info == info
    (forced,) = build_engines(attention_dir, folder, replace(RTX, force=True))
    assert forced.fusion is not None
    assert forced.info.built > info.built
    info.path.write_bytes(b"edited")
    (mended,) = build_engines(attention_dir, folder, RTX)
    assert mended.fusion is not None
    assert len(mended.info.read()) == mended.plan_bytes > 1000
    (smaller,) = build_engines(attention_dir, folder, replace(RTX, max_batch_size=2))
    assert (smaller.info.max_batch_size, smaller.info.path != info.path) == (2, True)


def test_command_says_what_it_built_and_what_it_reused(
    attention_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["tensorrt", str(attention_dir), "--engine-dir", str(tmp_path / "engines"), "--size", "72x90"]
    assert main([*arguments, "--runtime", "tensorrt-rtx"]) == 0
    printed = capsys.readouterr()
    (path,) = (tmp_path / "engines").glob("*.engine")
    megabytes = f"{path.stat().st_size / 1e6:.1f} MB"
    assert printed.out.startswith(f"{path}: {megabytes}, input 72x90, fp16, batch 1..8, tensorrt-rtx 1.7.1.116 for any")
    for part in ("1 of 1 SAU attentions fused, ", " layers; built in ", " MB of GPU memory at batch 8\n"):
        assert part in printed.out
    assert "building fp16.onnx" in printed.err
    monkeypatch.setenv("ECENET_MODEL_DIR", str(attention_dir))
    monkeypatch.setenv("ECENET_ENGINE_DIR", str(tmp_path / "engines"))
    assert main(["tensorrt", "--size", "72x90", "--runtime", "tensorrt-rtx"]) == 0  # as a container is told
    printed = capsys.readouterr()
    assert "1 of 1 attentions fused; built on " in printed.out
    assert " and reused; --force builds it again" in printed.out
    assert printed.err == ""


def test_command_without_a_graph_that_fuses_tells_what_to_run(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tensorrt", str(tiny_model_dir)]) == 1
    error = capsys.readouterr().err
    assert "brightness has no fp16 graph of 32x64 to build from; it has 32x64 fp32; export the checkpoint" in error
    assert not (tiny_model_dir / "engines").exists()


def test_tensorrt_where_there_is_none_is_an_error(
    attention_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(runtime: str) -> Machine:
        raise MachineError(f"{runtime} is not installed: pip install '.[gpu]'")

    monkeypatch.setattr(tensorrt_build, "detect_builder", refuse)
    assert main(["tensorrt", str(attention_dir), "--runtime", "tensorrt"]) == 1
    assert capsys.readouterr().err == "ecenet-export: tensorrt is not installed: pip install '.[gpu]'\n"
    assert not (attention_dir / "engines").exists()


def test_long_builds_tell_that_they_go_on() -> None:
    lines, third = list[str](), threading.Event()

    def progress(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            third.set()

    with heartbeat(progress, "building", interval_s=0.001):
        assert third.wait(HANG_S)
    count = len(lines)
    assert lines[:3] == ["building", "building; 0 s so far", "building; 0 s so far"]
    assert not any(thread.name == "build-heartbeat" for thread in threading.enumerate())
    assert len(lines) == count


def test_a_plan_of_int8_steps_is_fused_too(rtx: Any) -> None:
    """As ``ecenet-export quantize`` writes them: uint8 steps, and attention of float32 between them."""
    scale = {"scale": np.float32(0.02), "zero": np.uint8(7)}
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["steps"]),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["q"]),
        helper.make_node("Neg", ["q"], ["k"]),
        helper.make_node("Abs", ["q"], ["v"]),
        helper.make_node("Attention", ["q", "k", "v"], ["logits"], name="attention"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 2, 64, 48]) for name in ("images", "logits")]
    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in scale.items()]
    graph = helper.make_graph(nodes, "int8", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    from service.engines.tensorrt.graph import attention_nodes, tensorrt_copy  # noqa: PLC0415
    from service.engines.tensorrt.layer_report import count_fused, parse_layers  # noqa: PLC0415

    machine = target_machine(detect_builder("tensorrt-rtx"), "int8")
    plan = compile_plan(rtx, tensorrt_copy(model).SerializeToString(), machine, (1, 8, 8))
    fusion = count_fused(parse_layers(plan.layer_report), attention_nodes(model))
    assert (fusion.saus, fusion.fused_saus) == (1, 1)
