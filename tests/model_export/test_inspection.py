"""``ecenet-export inspect`` on directories, graphs and engines, and its errors for other files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from model_export import inspection
from model_export.__main__ import main
from model_export.inspection import inspect_directory, inspect_engine, inspect_graph
from service.engines.tensorrt.attentions import AttentionCount, count_attentions
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.engine_store import EngineInfo, EngineKey, write_engine
from service.model_directory.machine import Machine, MachineError
from service.model_directory.manifest import read_manifest

GPU = Machine("tensorrt-rtx", "1.7.1", "any", "8.6,8.9")
HERE = Machine("tensorrt-rtx", "1.7.1", "NVIDIA L4", "8.9", "13.0")
Inspect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    """Runs the command; gives its status and what it printed."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main(["inspect", *map(str, arguments)])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation of its own, on a machine with a GPU."""
    monkeypatch.setenv("ECENET_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(inspection, "detect_machine", lambda _: HERE)


@pytest.fixture
def model_dir(exported_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported_dir, tmp_path / "models" / "copy")


def engine_in(folder: Path, graph_sha256: str = "0" * 64, machine: Machine = GPU) -> EngineInfo:
    key = EngineKey(graph_sha256, machine, (1, 4, 8), ("rewrite-1",))
    info = EngineInfo(key, "", (72, 90), "fp16", "logits", 4, 11, attentions=3, fused_attentions=2, built=1.7e9)
    return write_engine(folder, b"no engine: to deserialise it would fail", info)


def model_of(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto] | None = None) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def rows_of(paragraph: str) -> dict[str, str]:
    return {line[2:15].strip(): line[15:] for line in paragraph.splitlines()[1:]}


def test_a_directory_is_told_graph_by_graph(exported_dir: Path, inspect: Inspect) -> None:
    status, out, _ = inspect(exported_dir)
    head, fp32, fp16 = out.rstrip().split("\n\n")
    assert status == 0
    assert rows_of(head)["model"] == "tiny 2.0.0, ecenet-lite0, 11 classes"
    assert rows_of(head)["checkpoint"] == "there, as it was exported"
    assert rows_of(head)["golden"] == "images of 72x90 (2)"
    assert fp32.startswith(f"{exported_dir / 'model.onnx'} (default)\n")
    rows = rows_of(fp32)
    assert rows["inputs"] == "images (batch, 72, 90, 3) uint8"
    assert rows["outputs"] == "logits (batch, 11, 18, 23) float32"
    assert (rows["precision"], rows_of(fp16)["precision"]) == ("fp32", "fp16")
    assert rows["attention"] == "3 Attention nodes (3 of SAUs, 0 of windows with a mask), 0 decomposed"
    assert rows["operators"].partition(" Conv")[0].endswith(": 66")
    assert rows_of(fp16)["attention"] == rows["attention"]


def test_the_bundled_graph_is_told_with_its_operations(inspect: Inspect) -> None:
    status, out, _ = inspect(bundled_model_dir() / "model.onnx")
    rows = rows_of(out)
    assert (status, rows["FLOPs"]) == (0, "18.9 G per image")
    assert rows["operators"].partition(" Conv")[0].endswith(": 98")


def test_json_has_the_same_in_figures(exported_dir: Path, inspect: Inspect) -> None:
    status, out, _ = inspect(exported_dir, "--json")
    content = json.loads(out)
    graph = content["graphs"][1]
    assert (status, content["golden"], content["checkpoint_fault"]) == (0, {"72x90": 2}, None)
    assert content["manifest"]["graphs"][1]["file"] == "model-72x90-fp16.onnx"
    assert graph["attentions"] == {"plain": 3, "masked": 0, "decomposed": 0}
    assert (graph["precision"], graph["opset"], graph["operators"]["Conv"]) == ("fp16", 23, 66)
    assert graph["num_bytes"] == (exported_dir / "model-72x90-fp16.onnx").stat().st_size
    assert inspect(exported_dir / "model-72x90-fp16.onnx", "--json")[:2] == (0, json.dumps(graph, indent=2) + "\n")


def test_a_precision_that_the_manifest_states_otherwise_is_told(model_dir: Path, inspect: Inspect) -> None:
    path = model_dir / "manifest.json"
    raw = json.loads(path.read_text())
    raw["graphs"][0]["precision"] = "fp16"
    path.write_text(json.dumps(raw))
    assert rows_of(inspect(model_dir)[1].split("\n\n")[1])["precision"] == "fp32; the manifest states fp16"


def test_quantised_graphs_are_int8(tmp_path: Path) -> None:
    weights = [helper.make_tensor(name, kind, [], [1]) for name, kind in (("s", TensorProto.FLOAT), ("z", 3))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    onnx.save(model_of(nodes, weights), tmp_path / "q.onnx")
    facts = inspect_graph(tmp_path / "q.onnx")
    assert (facts.precision, facts.flops, facts.operators) == ("int8", 0, {"QuantizeLinear": 1, "DequantizeLinear": 1})


def test_a_checkpoint_that_is_gone_or_changed_is_told(model_dir: Path) -> None:
    assert "the checkpoint is not at" in str(inspect_directory(model_dir).checkpoint_fault)
    checkpoint = model_dir / str(getattr(read_manifest(model_dir).checkpoint, "file", ""))
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(b"other")
    assert "was changed after the export" in str(inspect_directory(model_dir).checkpoint_fault)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "it has no graph"), (b"# a text, and no graph", "not an ONNX file"), (None, "not an ONNX file, or")],
)
def test_other_files_are_refused(
    content: bytes | None, message: str, exported_dir: Path, tmp_path: Path, inspect: Inspect
) -> None:
    whole = (exported_dir / "model.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    status, out, err = inspect(path)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert message in err


def test_a_model_that_does_not_tell_its_opset_is_refused(tmp_path: Path, inspect: Inspect) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])])
    model.opset_import[0].domain = "of.others"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert "it has no graph" in inspect(tmp_path / "model.onnx")[2]


def test_what_is_not_there_is_named(tmp_path: Path, inspect: Inspect) -> None:
    absent = tmp_path / "absent.onnx"
    message = f"{absent} does not exist, expected a model directory, an ONNX file or an engine"
    assert inspect(absent) == (1, "", f"ecenet-export: {message}\n")
    assert "it has no manifest.json" in inspect(tmp_path)[2]
    assert "expected an engine of ecenet-export tensorrt" in inspect(tmp_path / "absent.engine")[2]
    (tmp_path / "alone.engine").write_bytes(b"plan")
    assert "has no manifest alone.json beside it" in inspect(tmp_path / "alone.engine")[2]


def test_weights_in_other_files_have_to_be_there_and_whole(tmp_path: Path, inspect: Inspect) -> None:
    weight = onnx.numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight])
    path, data = tmp_path / "model.onnx", tmp_path / "weights.bin"
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=0)
    facts = inspect_graph(path)
    assert (facts.num_bytes, facts.flops, facts.precision) == (path.stat().st_size + 64, 128, "fp32")
    data.write_bytes(bytes(63))
    assert f"{data} has 63 bytes, {path} needs 64" in inspect(path)[2]
    data.unlink()
    assert f"{path} keeps weights in {data}, which does not exist" in inspect(path)[2]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ({"location": "../../weights.bin"}, "keeps weights in ../../weights.bin, which is not below its folder"),
        ({"location": "/etc/passwd"}, "keeps weights in /etc/passwd, which is not below its folder"),
        ({"location": "a", "offset": "x"}, "does not tell where the weights w are: invalid literal for int()"),
    ],
)
def test_weights_outside_of_the_folder_are_refused(
    place: dict[str, str], reason: str, tmp_path: Path, inspect: Inspect
) -> None:
    weight = onnx.numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in place.items():
        weight.external_data.add(key=key, value=value)
    path = tmp_path / "model.onnx"
    path.write_bytes(model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight]).SerializeToString())
    status, _, told = inspect(path)
    assert (status, f"{path} {reason}" in told) == (1, True)


def test_flops_that_cannot_be_counted_are_no_error(tmp_path: Path, inspect: Inspect) -> None:
    onnx.save(model_of([helper.make_node("Einsum", ["x", "x"], ["y"], "e", equation="ij,jk->ik")]), tmp_path / "e.onnx")
    status, out, _ = inspect(tmp_path / "e.onnx")
    assert (status, rows_of(out)["FLOPs"]) == (
        0,
        "not counted: node 'e' is a Einsum, whose operations are not counted here",
    )
    assert rows_of(out)["precision"] == "no weights"


def nodes_of(*steps: tuple[str, str, str]) -> list[onnx.NodeProto]:
    """Nodes from (operator, inputs, output)."""
    return [helper.make_node(operator, inputs.split(), [output]) for operator, inputs, output in steps]


PLAIN = nodes_of(("Attention", "x x x", "y"))
MASKED = nodes_of(("Attention", "x x x x", "y"))
SCALED = nodes_of(("MatMul", "x x", "s"), ("Mul", "s x", "m"), ("Softmax", "m", "p"), ("MatMul", "p x", "y"))
NAIVE = nodes_of(
    ("MatMul", "x x", "s"),
    ("ReduceMax", "s", "largest"),
    ("Sub", "largest s", "inverse"),
    ("Softmax", "inverse", "p"),
    ("Cast", "p", "half"),
    ("MatMul", "half x", "y"),
)
NO_SCORES = nodes_of(("Relu", "x", "s"), ("Softmax", "s", "p"), ("MatMul", "p x", "y"))
NO_VALUES = nodes_of(("MatMul", "x x", "s"), ("Softmax", "s", "p"), ("Mul", "p x", "y"))


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (PLAIN, AttentionCount(1, 0, 0)),
        (MASKED, AttentionCount(0, 1, 0)),
        (SCALED, AttentionCount(0, 0, 1)),
        (NAIVE, AttentionCount(0, 0, 1)),
        (NO_SCORES, AttentionCount(0, 0, 0)),
        (NO_VALUES, AttentionCount(0, 0, 0)),
    ],
)
def test_attentions_are_counted_by_their_form(nodes: list[onnx.NodeProto], expected: AttentionCount) -> None:
    assert count_attentions(model_of(nodes)) == expected


def test_an_engine_is_told_by_its_manifest(tmp_path: Path, state: None, inspect: Inspect) -> None:
    info = engine_in(tmp_path)
    status, out, _ = inspect(info.path)
    rows = rows_of(out)
    assert status == 0
    assert rows["graph"] == f"SHA-256 {'0' * 64}"
    assert rows["input"] == "images (B, 72, 90, 3) uint8, B 1..8, best 4"
    assert rows["attention"] == "2 of 3 fused"
    assert rows["runtime"] == "tensorrt-rtx 1.7.1"
    assert rows["GPU"] == "any, compute capability 8.6,8.9"
    assert rows["built"] == "2023-11-14 22:13 UTC"
    assert (rows["signature"], rows["usable here"]) == ("of this installation", "yes")
    content: dict[str, Any] = json.loads(inspect(info.path, "--json")[1])
    assert (content["fused_attentions"], content["key"]["flags"], content["usable"]) == (2, ["rewrite-1"], True)


def test_the_engines_of_a_directory_are_told_with_their_graph(model_dir: Path, state: None, inspect: Inspect) -> None:
    engine_in(model_dir / "engines", read_manifest(model_dir).graphs[1].sha256)
    engine_in(model_dir / "engines")
    (model_dir / "engines" / "ff.engine").write_bytes(b"plan")
    *_, first, second, fault = inspect(model_dir)[1].rstrip().split("\n\n")
    assert {rows_of(first)["graph"], rows_of(second)["graph"]} == {"model-72x90-fp16.onnx", "none of this directory"}
    assert "has no manifest ff.json beside it" in fault
    assert [engine["graph"] for engine in json.loads(inspect(model_dir, "--json")[1])["engines"]].count(None) == 1


def test_engines_that_may_not_be_loaded_are_told_why(
    tmp_path: Path, state: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = engine_in(tmp_path)
    assert inspect_engine(info.path).obstacle is None
    source = info.path.with_suffix(".json")
    signed = source.read_text()
    source.write_text(signed.replace('"fused_attentions": 2', '"fused_attentions": 3'))
    assert inspect_engine(info.path).signature_fault == "not built by this installation, or its manifest was changed"
    source.write_text(signed)
    info.path.write_bytes(b"another")
    assert "the file was changed after the build" in str(inspect_engine(info.path).obstacle)


def test_engines_of_other_machines_and_installations_are_told(
    tmp_path: Path, state: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = engine_in(tmp_path, machine=Machine("tensorrt-rtx", "1.7.0", "any", "8.9"))
    assert inspect_engine(info.path).machine_fault == "built by tensorrt-rtx 1.7.0, here is tensorrt-rtx 1.7.1"

    def no_gpu(runtime: str) -> Machine:
        raise MachineError("CUDA finds no GPU")

    monkeypatch.setattr(inspection, "detect_machine", no_gpu)
    monkeypatch.setenv("ECENET_STATE_DIR", str(tmp_path / "another"))
    facts = inspect_engine(info.path)
    assert facts.obstacle == "CUDA finds no GPU; not built by this installation, or its manifest was changed"
