"""The fusion gate: TensorRT-RTX builds the real graphs without a GPU, and the attention of every SAU is one kernel."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from model_export.exportable import Exportable
from model_export.fp8_graph import to_fp8, wide_inputs
from model_export.graph_precision import to_fp16
from model_export.trace import NUM_SAUS, trace
from service.engines.tensorrt import compile as tensorrt_compile
from service.engines.tensorrt.build import BuildError, BuildOptions, build_engines, target_machine
from service.engines.tensorrt.compile import CompileError, Plan, compile_plan
from service.engines.tensorrt.graph import attention_nodes, tensorrt_copy
from service.engines.tensorrt.layer_report import (
    AttentionNodes,
    Fusion,
    FusionError,
    LayerReportError,
    count_fused,
    parse_layers,
)
from service.model_directory.machine import Machine, detect_builder, runtime_module
from service.model_directory.manifest import ClassInfo, GraphInfo, Manifest, file_sha256, write_manifest
from service.model_directory.sizes import Size
from trainer.model.ecenet import build_model

RTX = BuildOptions(runtime="tensorrt-rtx", require_fused=True)
ANY = BuildOptions(runtime="tensorrt-rtx")


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECENET_STATE_DIR", str(tmp_path / "state"))


def compiled(model: onnx.ModelProto, machine: Machine | None = None) -> tuple[Plan, Fusion]:
    copy = tensorrt_copy(model, runtime="tensorrt-rtx")
    machine = machine or detect_builder("tensorrt-rtx")
    plan = compile_plan(runtime_module("tensorrt-rtx"), copy.SerializeToString(), machine, (1, 8, 8))
    return plan, count_fused(parse_layers(plan.layer_report), attention_nodes(copy))


def half_graph(architecture: str, num_classes: int, size: Size) -> onnx.ModelProto:
    torch.manual_seed(0)
    return to_fp16(trace(Exportable(build_model(architecture, num_classes)), size))


def test_the_runtime_is_the_one_that_the_gate_was_made_with() -> None:
    """Another one may name its kernels otherwise; raise both versions together, with a look at a layer report."""
    assert importlib.metadata.version("tensorrt-rtx-cu13") == runtime_module("tensorrt-rtx").__version__ == "1.7.1.116"


@pytest.mark.slow
def test_every_sau_of_the_small_network_is_one_kernel() -> None:
    plan, fusion = compiled(half_graph("ecenet-lite0", 11, (352, 480)))
    assert (fusion.saus, fusion.fused_saus, fusion.kernels) == (NUM_SAUS, NUM_SAUS, NUM_SAUS)
    assert fusion.windows == 0
    assert fusion.layers > 100
    assert plan.memory_bytes is not None
    assert 5e7 < plan.memory_bytes < 3e8
    repeated = re.findall(r"Name: (\S*_ReshReplConcResh_\S*), LayerType", plan.layer_report)
    assert repeated == [], "TensorRT-RTX repeats the inputs of depthwise convolutions in memory"


@pytest.mark.slow
def test_convolutions_in_fp8_are_built_from_ada_on_and_refused_for_gpus_before() -> None:
    half = half_graph("ecenet-lite0", 11, (64, 96))
    wide = wide_inputs(half)
    graph = to_fp8(half, dict.fromkeys(wide, 8.0))
    everywhere = detect_builder("tensorrt-rtx")
    plan, fusion = compiled(graph, target_machine(everywhere, "fp8"))
    assert fusion.fused_saus == NUM_SAUS
    in_fp8 = re.findall(r"LayerType: correlation, Inputs: \[ \{[^}]*Datatype: FP8", plan.layer_report)
    assert len(in_fp8) > len(wide) / 2
    with pytest.raises(CompileError, match="Cannot compile for target"):
        compiled(graph, everywhere)


@pytest.mark.slow
def test_every_sau_and_every_window_of_swin_tiny_is_one_kernel() -> None:
    """Windows need not be fused to serve, but all are: a change that loses one is to be seen."""
    _, fusion = compiled(half_graph("ecenet-swin-tiny", 150, (512, 512)))
    assert (fusion.saus, fusion.fused_saus) == (NUM_SAUS, NUM_SAUS)
    assert (fusion.windows, fusion.fused_windows) == (12, 12)
    assert fusion.kernels == 15
    assert str(fusion) == "3 of 3 SAU attentions fused, 12 of 12 window attentions fused"


def attention_graph(form: str) -> onnx.ModelProto:
    """``softmax(L) v`` of float16 images (B, 32, 64, 3) as two heads of 64 tokens: an operator, or in pieces.

    ``naive`` is the paper's formulation: softmax of the maximum minus the scores, and masks that are the scores' mean
    over the heads.
    """
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT16),
        helper.make_node("Reshape", ["values", "heads"], ["q"]),
        helper.make_node("Neg", ["q"], ["k"]),
        helper.make_node("Abs", ["q"], ["v"]),
    ]
    outputs = {"logits": [2, 64, 48]}
    if form == "naive":
        nodes += [
            helper.make_node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["q", "t"], ["scores"]),
            helper.make_node("ReduceMax", ["scores", "last"], ["largest"], keepdims=1),
            helper.make_node("Sub", ["largest", "scores"], ["differences"]),
            helper.make_node("Softmax", ["differences"], ["shares"], name="softmax"),
            helper.make_node("MatMul", ["shares", "v"], ["attended"]),
            helper.make_node("ReduceMean", ["scores", "first"], ["mean"], keepdims=0),
            helper.make_node("Cast", ["mean"], ["masks"], to=TensorProto.FLOAT),
        ]
        outputs["masks"] = [64, 64]
    else:
        nodes.append(helper.make_node("Attention", ["q", "k", "v"], ["attended"], name="attention"))
    nodes.append(helper.make_node("Cast", ["attended"], ["logits"], to=TensorProto.FLOAT))
    constants = {"heads": [-1, 2, 64, 48], "last": [-1], "first": [1]}
    graph = helper.make_graph(
        nodes,
        form,
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", 32, 64, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *sides]) for name, sides in outputs.items()],
        [onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def model_dir(tmp_path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, tmp_path / "model.onnx")
    graph = GraphInfo("model.onnx", file_sha256(tmp_path / "model.onnx"), (32, 64), precision="fp16")
    classes = tuple(ClassInfo(index, str(index), (0, 0, 0)) for index in range(2))
    write_manifest(tmp_path, Manifest("small", "1", "none", classes, (graph,)))
    return tmp_path


def test_the_gate_tells_the_naive_formulation_from_the_operator() -> None:
    _, fused = compiled(attention_graph("operator"))
    assert (fused.saus, fused.fused_saus, fused.kernels) == (1, 1, 1)
    _, naive = compiled(attention_graph("naive"))
    assert (naive.saus, naive.fused_saus, naive.kernels) == (1, 0, 0)
    with pytest.raises(FusionError, match="model: 0 of 1 SAU attentions are fused, not 1 that the graph has in pieces"):
        naive.check("model")


def test_an_engine_whose_attention_is_not_fused_is_kept_with_a_warning_unless_fusion_is_required(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = model_dir(tmp_path, attention_graph("naive"))
    with pytest.raises(FusionError, match=r"model\.onnx: 0 of 1 SAU attentions are fused"):
        build_engines(directory, options=RTX)
    assert not list(directory.glob("engines/*.engine"))
    (report,) = build_engines(directory, options=ANY)
    assert "model.onnx: 0 of 1 SAU attentions are fused, not 1 that the graph has in pieces; the engine" in caplog.text
    assert (report.info.attentions, report.info.fused_attentions) == (1, 0)
    with pytest.raises(FusionError):  # it is not taken for a fused one later on
        build_engines(directory, options=RTX)
    (again,) = build_engines(directory, options=ANY)
    assert (again.info, again.fusion) == (report.info, None)


def test_an_engine_without_a_layer_report_is_kept_with_a_warning_unless_fusion_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a version that does not log it, on a machine where the engine cannot be loaded to be inspected."""
    directory = model_dir(tmp_path, attention_graph("operator"))
    monkeypatch.setattr(tensorrt_compile, "is_report", lambda _: False)
    with pytest.raises(LayerReportError, match="no report in the log, and the engine cannot be loaded"):
        build_engines(directory, options=RTX)
    assert not list(directory.glob("engines/*.engine"))
    (report,) = build_engines(directory, options=ANY)
    assert (report.info.attentions, report.info.fused_attentions) == (1, 0)
    assert "nobody knows whether attention is fused" in caplog.text


def test_an_engine_with_another_form_of_report_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = model_dir(tmp_path, attention_graph("operator"))
    monkeypatch.setattr(tensorrt_compile, "is_report", lambda message: message.startswith("Total"))
    with pytest.raises(LayerReportError, match="no line of a layer"):
        build_engines(directory, options=RTX)
    assert not list(directory.glob("engines/*.engine"))


def test_a_graph_that_tensorrt_does_not_take_is_told_with_its_reason(tmp_path: Path) -> None:
    model = attention_graph("operator")
    model.graph.node[3].op_type = "Loudness"
    with pytest.raises(
        BuildError, match=r"model\.onnx with tensorrt-rtx .*cannot parse the graph: .*\(Loudness node ''\)"
    ):
        build_engines(model_dir(tmp_path, model), options=RTX)


def test_attention_that_has_no_fused_kernel_is_decomposed_unless_fusion_is_required(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A head of 3 channels: TensorRT fuses multiples of 8 or 16."""
    model = attention_graph("operator")
    heads = next(tensor for tensor in model.graph.initializer if tensor.name == "heads")
    heads.CopyFrom(onnx.numpy_helper.from_array(np.array([-1, 2, 1024, 3], np.int64), "heads"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 2, 1024, 3]))
    directory = model_dir(tmp_path, model)
    with pytest.raises((BuildError, FusionError)):
        build_engines(directory, options=RTX)
    (report,) = build_engines(directory, options=ANY)
    assert report.fusion is not None
    assert report.fusion.unfused == ("attention",)
    assert "not attention; the engine may be slow, and is kept" in caplog.text


def test_attentions_of_the_gate_are_those_of_the_graph() -> None:
    assert attention_nodes(attention_graph("operator")) == AttentionNodes(("attention",))
