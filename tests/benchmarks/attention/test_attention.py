"""The baseline of the attention: it computes what ours does, and is compared fairly with it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from benchmarks.attention import run
from benchmarks.attention.graphs import FORMS, Case, Form, export
from benchmarks.attention.kernels import KernelError, Kernels, read_report, tensorrt_kernels
from benchmarks.attention.measure import MeasureError, memory_growth
from benchmarks.attention.naive import NaiveClassExtraction, NaiveSemanticsAttention
from benchmarks.attention.table import tables
from model_export.graph_precision import to_fp16
from service.engines.tensorrt.compile import Plan
from trainer.model.class_extraction import ClassExtraction
from trainer.model.semantics_attention import SemanticsAttention

# Grids of 1 and 2 divide the map; those of 3 and 6 only its height, the one of 5 for 19 classes only its width.
TINY = Case(19, (6, 10), channels=32, num_heads=2)


@pytest.fixture(scope="module")
def stage() -> dict[Form, onnx.ModelProto]:
    return {form: export("stage", form, TINY) for form in FORMS}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_naive_attention_computes_what_ours_does(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    ours, naive = SemanticsAttention(32, 4).to(dtype).eval(), NaiveSemanticsAttention(32, 4).to(dtype).eval()
    naive.load_state_dict(ours.state_dict())
    features, classes = torch.randn(2, 32, 9, 7, dtype=dtype), torch.randn(2, 19, 32, dtype=dtype)
    with torch.no_grad():
        for expected, found in zip(ours(features, classes), naive(features, classes), strict=True):
            assert found.shape == expected.shape
            assert float((found - expected).abs().max()) <= tolerance
            assert float(expected.std()) > 0.01


@pytest.mark.parametrize("size", [(6, 12), (10, 9), (5, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_the_naive_pooling_computes_what_ours_does(size: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    ours, naive = ClassExtraction(11, 16).to(dtype), NaiveClassExtraction(11, 16).to(dtype)
    naive.load_state_dict(ours.state_dict())
    masks = torch.randn(2, 11, *size, dtype=dtype)
    with torch.no_grad():
        assert float((naive(masks) - ours(masks)).abs().max()) <= tolerance


def test_only_the_fused_graph_has_an_attention_and_only_the_naive_one_its_parts(
    stage: dict[Form, onnx.ModelProto],
) -> None:
    naive, fused = (Counter(node.op_type for node in stage[form].graph.node) for form in FORMS)
    assert (fused["Attention"], fused["Softmax"], fused["ReduceMax"], fused["ReduceMean"]) == (1, 0, 0, 0)
    assert (naive["Attention"], naive["Softmax"], naive["ReduceMax"]) == (0, 1, 1)
    assert naive["ReduceMean"] == 2  # over the heads, and the grid of one cell
    assert (naive["AveragePool"], fused["AveragePool"]) == (1, 0)
    assert naive["Gather"] == 0  # what the exporter makes of a grid that does not divide the map


def test_both_graphs_take_any_batch_and_compute_the_same(stage: dict[Form, onnx.ModelProto]) -> None:
    rng = np.random.default_rng(0)
    inputs = {"features": rng.standard_normal((3, 32, 6, 10), np.float32)}
    inputs["classes"] = rng.standard_normal((3, 19, 32), np.float32)
    naive, fused = (ort.InferenceSession(stage[form].SerializeToString()).run(None, inputs) for form in FORMS)
    assert [output.shape for output in fused] == [(3, 32, 6, 10), (3, 19, 6, 10), (3, 19, 32)]
    assert all(np.abs(a - b).max() <= 1e-5 for a, b in zip(naive, fused, strict=True))


def graph_of(*nodes: onnx.NodeProto, columns: int) -> onnx.ModelProto:
    """A graph from x (batch, 1, columns) to y."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 1, columns])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(list(nodes), "g", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)


def test_forms_that_differ_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = {
        form: graph_of(onnx.helper.make_node(operator, ["x"], ["y"]), columns=4)
        for form, operator in {"naive": "Abs", "fused": "Identity"}.items()
    }
    monkeypatch.setattr(run, "export", lambda _part, form, _case: graphs[form])
    with pytest.raises(MeasureError, match=r"the forms differ by .*, at most 1e-04"):
        run.measure("attention", TINY, run.Settings(repeats=1, tensorrt=False))


def test_the_growth_of_memory_is_that_of_the_values_in_between(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Transpose", ["x"], ["column"], perm=[0, 2, 1]),
        onnx.helper.make_node("Add", ["column", "x"], ["square"]),  # 16 MiB
        onnx.helper.make_node("ReduceMax", ["square"], ["y"], axes=[2]),
    ]
    onnx.save(graph_of(*nodes, columns=2048), tmp_path / "g.onnx")
    assert 16 <= memory_growth(tmp_path / "g.onnx", 1) / 2**20 < 20


def test_a_process_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"absent.onnx could not be measured: .*absent.onnx"):
        memory_growth(tmp_path / "absent.onnx", 1)


LAYERS = {
    "__mye1_myl0_0": "shape_call",
    "__myl_CastTran_myl0_1": "kgen",
    "_gemm_mha_v2_myl0_2": "kgen",
    "node_matmul_myl0_3": "gemm",
    "exit^bb^signal^1_myl0_4": "signal",
    "exit^bb^wait^1_myl0_5": "wait",
}
LINES = [f"Name: {name}, LayerType: {kind}, Inputs: [], StreamId: 0, Metadata: " for name, kind in LAYERS.items()]
REPORT = "\n".join(["Layers:", *LINES, "", "I/O Tensors:", " Name: query, IOMode: Input, DataType: Float"])


def test_the_report_of_the_builder_is_read() -> None:
    assert read_report(Plan(b"", REPORT, 88096768)) == Kernels(3, 1, 88096768)


def test_a_report_without_memory_is_an_error() -> None:
    with pytest.raises(KernelError, match="reported no memory"):
        read_report(Plan(b"", REPORT))


def test_without_tensorrt_the_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setattr(run, "export", lambda *_: graph_of(onnx.helper.make_node("Abs", ["x"], ["y"]), columns=4))
    assert run.main(["--folder", str(tmp_path)]) == 1
    assert "run: tensorrt-rtx is not installed: pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tensorrt_fuses_ours_and_not_the_naive_form(stage: dict[Form, onnx.ModelProto]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13, which has wheels for x86-64 only")
    naive, fused = (tensorrt_kernels(to_fp16(stage[form])) for form in FORMS)
    assert (naive.fused_attentions, fused.fused_attentions) == (0, 1)
    assert fused.kernels < naive.kernels
    assert fused.activation_bytes > 0


def results(**of_each_form: int) -> dict[str, Any]:
    naive = {"ms": 40.04, "memory_bytes": 159_490_048, "nodes": 17}
    fused = {"ms": 20.0, "memory_bytes": 77_000_000, "nodes": 14}
    case = {"num_classes": 150, "queries": 10800, "channels": 256, "time_ratio": 1.987}
    rows = [
        {"part": part, **case, "naive": naive | of_each_form, "fused": fused | of_each_form}
        for part in ("attention", "stage")
    ]
    return {
        "command": "python -m run",
        "commit": "abc",
        "processor": "2 x CPU",
        "packages": {"torch": "2.13.0"},
        "repeats": 5,
        "threads": 2,
        "tensorrt": bool(of_each_form),
        "rows": rows,
    }


def test_the_tables_hold_both_forms_and_their_ratio() -> None:
    alone, table, whole, _, origin = tables(results()).split("\n\n")
    assert (alone, whole) == (
        "**Attention and masks alone**, C = 256:",
        "**Whole stage: SAU and class extraction**, C = 256:",
    )
    assert table.splitlines() == [
        "| K | Q | naive, ms | fused, ms | naive / fused | naive, MB | fused, MB | ORT nodes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| 150 | 10800 | 40.0 | 20.0 | 1.99 | 159 | 77 | 17 : 14 |",
    ]
    assert origin == ("`python -m run`: batch 1, medians of 5, 2 threads on 2 x CPU; torch 2.13.0; commit abc.")


def test_the_tables_have_columns_of_tensorrt_where_it_was_measured() -> None:
    text = tables(results(kernels=9, fused_attentions=1, activation_bytes=2_400_000))
    assert "| ORT nodes | RTX kernels | fused attentions | RTX naive, MB | RTX fused, MB |" in text
    assert "| 17 : 14 | 9 : 9 | 1 : 1 | 2 | 2 |" in text


def test_the_processor_is_told_from_cpuinfo() -> None:
    core = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx512f avx2\n\n"
    assert run.processor(core * 2) == "2 x AMD EPYC (family 25, model 17, with AVX-512)"
    assert run.processor("processor\t: 0\n") == "1 x unknown (family unknown, model unknown, without AVX-512)"


def test_the_command_measures_one_case_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = ["--classes", "3", "--sizes", "32x32", "--channels", "16", "--heads", "2", "--parts", "attention"]
    assert run.main([*case, "--repeats", "2", "--without-tensorrt", "--folder", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    (row,) = content["rows"]
    assert (row["part"], row["num_classes"], row["queries"]) == ("attention", 3, 64)
    assert row["difference"] <= 1e-5
    assert row["naive"]["nodes"] > row["fused"]["nodes"]
    assert min(row[form][key] for form in FORMS for key in ("ms", "memory_bytes")) > 0
    assert set(content["packages"]) == {"torch", "onnx", "onnxruntime"}
    assert "| 3 | 64 |" in capsys.readouterr().out
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
