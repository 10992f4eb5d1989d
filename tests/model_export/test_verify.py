"""``ecenet-export verify``: its table and exit status on whole exports, and its parts on engines of one's own."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model_export.__main__ import main
from model_export.verify import (
    Case,
    Cases,
    Labelled,
    Row,
    VerifyError,
    choose_pairs,
    fault_of,
    graphs_to_verify,
    pooled,
    verify,
)
from service.engines.base import EngineError
from service.engines.openvino_engine import openvino_obstacle
from service.engines.runtimes import RuntimeName
from service.imaging.segmentation import labels_of
from service.model_directory.agreement import Agreement, logits_agreement
from service.model_directory.manifest import (
    Bounds,
    GraphInfo,
    Precision,
    file_sha256,
    in_bf16,
    read_manifest,
    write_manifest,
)
from trainer import evaluate
from trainer.checkpoint import save_checkpoint
from trainer.model.ecenet import build_model

Verify = Callable[..., tuple[int, list[dict[str, str]], str, str]]
SIZE = (16, 24)
FP32 = GraphInfo("model.onnx", "0" * 64, SIZE)
FP16 = replace(FP32, file="half.onnx", precision="fp16", bounds=Bounds(0.99))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Verify:
    """Runs the command; gives its status, the rows of its table, and what it printed."""

    def call(*arguments: object) -> tuple[int, list[dict[str, str]], str, str]:
        capsys.readouterr()  # what the fixtures printed
        status = main(["verify", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, rows_of(out), out, err

    return call


def rows_of(out: str) -> list[dict[str, str]]:
    """The table's rows by the names in its head, which ends each column of figures and begins each of words."""
    lines = out.splitlines()[1:]
    names = [name.strip() for name in lines[0].split("  ") if name.strip()] if lines else []
    cells = [line.split() for line in lines[1:] if " was not verified " not in line and " does not pass: " not in line]
    return [dict(zip(names, row, strict=True)) for row in cells]


@pytest.fixture
def model_dir(exported_dir: Path, tmp_path: Path) -> Path:
    """A copy from which the path to the checkpoint leads nowhere."""
    return shutil.copytree(exported_dir, tmp_path / "models" / "copy")


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Three val images of 48x64 with labels in blocks, and a void corner."""
    rng = np.random.default_rng(0)
    for index in range(3):
        labels = rng.integers(0, 11, (6, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        image = np.repeat(labels[..., None] * 23, 3, 2).astype(np.uint8)
        labels[:4, :4] = 11
        for folder, array in (("val", image), ("valannot", labels)):
            path = tmp_path / "camvid" / folder / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return tmp_path / "camvid"


def negate_classifier(directory: Path) -> None:
    """Make another network of the first graph, whose manifest tells its SHA-256."""
    manifest = read_manifest(directory)
    path = directory / manifest.graph.file
    model = onnx.load(path)
    classifier = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == classifier.input[1]]
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    onnx.save(model, path)
    graphs = (replace(manifest.graph, sha256=file_sha256(path)), *manifest.graphs[1:])
    write_manifest(directory, replace(manifest, graphs=graphs))


def test_every_graph_is_compared_with_pytorch(exported_dir: Path, checkpoint: Path, run: Verify) -> None:
    status, rows, out, _ = run(exported_dir, "--count", 2, "--threads", 1)
    assert status == 0
    assert out.startswith(f"{exported_dir} against PyTorch with {checkpoint} on 2 generated images\n")
    fp32, fp16 = (row for row in rows if row["runtime"] == "onnxruntime")
    assert (fp32["graph"], fp32["input"], fp32["precision"], fp32["images"]) == ("model.onnx", "72x90", "fp32", "2")
    assert (fp16["graph"], fp16["precision"], fp16["images"]) == ("model-72x90-fp16.onnx", "fp16", "2")
    assert 0 < float(fp32["logit error"]) < 1e-5 < float(fp16["logit error"]) < 1e-2  # the logits are small
    assert fp32["equal labels"] == "100.000%"
    assert (fp32["mIoU"], fp32["lost"], fp32["verdict"], fp16["verdict"]) == ("-", "-", "ok", "ok")
    assert float(fp32["ms/image"]) > 0


def test_runtimes_that_are_not_here_are_listed_once_with_the_reason(
    exported_dir: Path, run: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    def obstacles(*arguments: Any) -> dict[str, str | None]:
        (runtime,) = arguments[-1]
        return {runtime: None if runtime == "onnxruntime" else f"no {runtime} today"}

    monkeypatch.setattr("model_export.verify.obstacles", obstacles)
    status, rows, out, _ = run(exported_dir, "--count", 1)
    assert (status, {row["runtime"] for row in rows}) == (0, {"onnxruntime"})
    assert out.splitlines()[-4:] == [
        f"{runtime} was not verified on model.onnx, model-72x90-fp16.onnx: no {runtime} today"
        for runtime in ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "openvino")
    ]
    status, rows, out, err = run(exported_dir, "--runtime", "onnxruntime", "--runtime", "tensorrt-rtx")
    assert (status, out) == (1, "")
    assert err == "ecenet-export: --runtime tensorrt-rtx cannot be used: no tensorrt-rtx today\n"


def test_openvino_is_verified_too_and_in_bf16_where_that_is_asked_for(exported_dir: Path, run: Verify) -> None:
    status, (fp32, fp16), _, _ = run(exported_dir, "--runtime", "openvino", "--count", 2)
    assert (status, fp32["runtime"], fp32["verdict"], fp16["verdict"]) == (0, "openvino", "ok", "ok")
    assert float(fp32["logit error"]) < 1e-4
    if (obstacle := openvino_obstacle("bf16")) is not None:
        assert "does not compute in bf16" in obstacle
        return
    _, (row,), out, _ = run(exported_dir, "--precision", "bf16", "--count", 2)
    assert (row["runtime"], row["graph"], row["precision"]) == ("openvino", "model.onnx", "bf16")
    assert float(row["logit error"]) > float(fp32["logit error"])
    assert "onnxruntime was not verified on model.onnx: it does not compute in bf16, only --engine openvino does" in out


def test_a_runtime_without_an_engine_cannot_be_asked_for(exported_dir: Path, run: Verify) -> None:
    status, _, out, err = run(exported_dir, "--runtime", "tensorrt")
    assert (status, out) == (1, "")
    assert err.startswith("ecenet-export: --runtime tensorrt cannot be used: ")


def test_another_network_fails_with_the_values(model_dir: Path, checkpoint: Path, run: Verify) -> None:
    negate_classifier(model_dir)
    status, (fp32, fp16), out, _ = run(model_dir, "--checkpoint", checkpoint, "--count", 1, "--runtime", "onnxruntime")
    assert (status, fp32["verdict"], fp16["verdict"]) == (1, "FAILS", "ok")
    assert float(fp32["logit error"]) > 1e-3
    share = fp32["equal labels"]
    assert f"onnxruntime on model.onnx does not pass: equal labels {share} (at least 99.9%), largest logit error" in out


def test_weights_that_are_named_are_those_that_count(exported_dir: Path, tmp_path: Path, run: Verify) -> None:
    torch.manual_seed(1)
    for num_classes in (7, 11):
        model = build_model("ecenet-lite0", num_classes)
        save_checkpoint(tmp_path / f"{num_classes}.pt", model.config, model.state_dict())
    only = ("--precision", "fp32", "--count", 1)
    assert run(exported_dir, "--checkpoint", tmp_path / "11.pt", *only)[1][0]["verdict"] == "FAILS"
    status, _, _, err = run(exported_dir, "--checkpoint", tmp_path / "7.pt", *only)
    assert (status, "has 7 classes, tiny has 11" in err) == (1, True)


def test_without_the_checkpoint_stored_outputs_count_and_it_is_said(model_dir: Path, run: Verify) -> None:
    status, rows, out, _ = run(model_dir, "--runtime", "onnxruntime")
    assert (status, [row["images"] for row in rows]) == (0, ["2", "2"])
    assert "against PyTorch's outputs stored in golden.npz: the checkpoint is not at " in out.splitlines()[0]
    assert run(model_dir, "--precision", "fp32", "--count", 1)[1][0]["images"] == "1"
    negate_classifier(model_dir)
    status, (fp32, fp16), _, _ = run(model_dir, "--runtime", "onnxruntime")
    assert (status, fp32["verdict"], fp16["verdict"]) == (1, "FAILS", "ok")


def test_without_pytorch_stored_outputs_count_and_it_is_said(
    exported_dir: Path, camvid: Path, checkpoint: Path, run: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "torch" else find_spec(name))
    status, _, out, _ = run(exported_dir, "--precision", "fp32")
    assert (status, "stored in golden.npz: PyTorch is not installed" in out) == (0, True)
    for option in (("--data", camvid), ("--images", camvid / "val"), ("--checkpoint", checkpoint)):
        status, _, _, err = run(exported_dir, *option)
        assert (status, f"{option[0]} cannot be used: PyTorch is not installed" in err) == (1, True)


def test_images_need_the_checkpoint_and_a_directory_without_stored_outputs_too(
    model_dir: Path, camvid: Path, run: Verify
) -> None:
    assert "--images cannot be used: the checkpoint is not at" in run(model_dir, "--images", camvid / "val")[3]
    write_manifest(model_dir, replace(read_manifest(model_dir), golden=None, checkpoint=None))
    status, _, _, err = run(model_dir)
    assert (status, "has no golden inputs to verify on, and the manifest does not state its checkpoint" in err) == (
        1,
        True,
    )


def test_images_of_a_folder_are_resized_and_counted(exported_dir: Path, camvid: Path, run: Verify) -> None:
    options = ("--count", 2, "--precision", "fp32", "--runtime", "onnxruntime")
    status, (row,), out, _ = run(exported_dir, "--images", camvid / "val", *options)
    assert (status, row["images"], row["equal labels"]) == (0, "2", "100.000%")
    assert f"on 2 images of {camvid / 'val'}\n" in out


@pytest.mark.parametrize("fixture", ["exported_dir", "labels_dir"])
def test_miou_is_that_of_ecenet_evaluate(
    fixture: str, camvid: Path, tmp_path: Path, run: Verify, request: pytest.FixtureRequest
) -> None:
    directory: Path = request.getfixturevalue(fixture)
    scores = tmp_path / "scores.json"
    arguments = [str(directory), "--data", str(camvid), "--engine", "onnxruntime", "--json", str(scores)]
    assert evaluate.main(arguments) == 0
    status, (row,), out, _ = run(directory, "--data", camvid, "--precision", "fp32", "--runtime", "onnxruntime")
    assert (status, row["images"], row["lost"]) == (0, "3", "0.00")
    assert "on 3 labelled images of camvid val\n" in out
    assert row["mIoU"] == f"{json.loads(scores.read_text())['miou']:.2%}"
    assert 0 < float(row["mIoU"].rstrip("%")) < 100


def test_a_dataset_of_other_classes_is_refused(exported_dir: Path, camvid: Path, run: Verify, tmp_path: Path) -> None:
    names = [{"name": name, "color": [index, 0, 0]} for index, name in enumerate(("dark", "bright"))]
    root = tmp_path / "folder"
    for kind, source in (("images", "val"), ("labels", "valannot")):
        shutil.copytree(camvid / source, root / kind / "val")
    (root / "classes.json").write_text(json.dumps({"classes": names}))
    status, _, _, err = run(exported_dir, "--data", root, "--dataset", "folder")
    assert (status, "the model has 11 classes, folder has 2" in err) == (1, True)


def test_graphs_are_chosen_by_precision_and_size(exported_dir: Path, run: Verify) -> None:
    manifest = read_manifest(exported_dir)
    assert [graph.precision for graph in graphs_to_verify(manifest, [], [(72, 90)])] == ["fp32", "fp16"]
    assert [graph.precision for graph in graphs_to_verify(manifest, ["fp16", "int8"], [])] == ["fp16"]
    assert graphs_to_verify(manifest, ["bf16"], []) == [in_bf16(manifest.graph)]
    status, _, _, err = run(exported_dir, "--precision", "fp32", "--size", "64x64")
    assert (status, "has no graph of this --precision and --size; it has 72x90 fp32, 72x90 fp16" in err) == (1, True)


@pytest.mark.parametrize(
    ("precision", "share", "error", "lost", "message"),
    [
        ("fp32", 0.9991, 9e-4, None, None),
        ("fp32", 0.9989, 9e-4, None, "equal labels 99.890% (at least 99.9%)"),
        ("fp32", 1.0, 2e-3, None, "largest logit error 2.00e-03 (at most 1e-03)"),
        ("fp32", 1.0, float("nan"), 0.0, "largest logit error nan (at most 1e-03)"),
        ("fp16", 0.995, 0.3, 0.1, None),
        ("fp16", 0.995, 0.3, 0.101, "0.10 points of mIoU lost (at most 0.1)"),
        ("fp16", 0.98, 0.3, 2.0, "equal labels 98.000% (at least 99.0%), 2.00 points of mIoU lost (at most 0.1)"),
        ("fp16", 1.0, 0.0, float("nan"), "nan points of mIoU lost (at most 0.1)"),
        ("fp16", 1.0, 0.0, -3.0, None),
        ("int8", 0.95, None, 0.5, None),
        ("int8", 0.95, None, 0.6, "0.60 points of mIoU lost (at most 0.5)"),
    ],
)
def test_bounds(
    precision: Precision, share: float, error: float | None, lost: float | None, message: str | None
) -> None:
    bounds = {"fp32": Bounds(0.999, 1e-3), "fp16": Bounds(0.99), "int8": Bounds(0.9)}[precision]
    assert fault_of(replace(FP32, precision=precision, bounds=bounds), Agreement(share, error), lost) == message


def test_labels_hold_fp32_to_the_bound_of_the_whole_export_whatever_the_manifest_says() -> None:
    lax = replace(FP32, bounds=Bounds(0.5))
    assert fault_of(lax, Agreement(0.99)) is None
    assert fault_of(lax, Agreement(0.99), 0.0) == "equal labels 99.000% (at least 99.9%)"
    strict = replace(FP32, bounds=Bounds(1.0))
    assert fault_of(strict, Agreement(0.9999), 0.0) == "equal labels 99.990% (at least 100.0%)"


def test_agreements_are_pooled() -> None:
    assert pooled([Agreement(1.0, 0.25), Agreement(0.5, 0.125)]) == Agreement(0.75, 0.25)
    assert pooled([Agreement(1.0), Agreement(0.5)]) == Agreement(0.75, None)
    error = pooled([Agreement(1.0, float("nan")), Agreement(1.0, 1.0)]).max_logit_error
    assert error is not None
    assert np.isnan(error)


def test_a_runtime_that_was_asked_for_has_to_run_one_graph_at_least() -> None:
    faults = {FP32: "no engine", FP16: None}
    pairs, absent = choose_pairs([FP32, FP16], ["tensorrt"], lambda _, graph: faults[graph])
    assert pairs == [("tensorrt", FP16)]
    assert [(entry.graph, entry.reason) for entry in absent] == [(FP32, "no engine")]
    with pytest.raises(VerifyError, match="--runtime tensorrt cannot be used: no engine"):
        choose_pairs([FP32], ["tensorrt"], lambda _, graph: faults[graph])
    assert choose_pairs([FP32], [], lambda *_: "none")[0] == []


@dataclass
class FakeEngine:
    """Gives the logits of an image plus what it is told to add; events tell when."""

    graph: GraphInfo
    added: float = 0.0
    fails_at: int = -1
    events: list[str] = field(default_factory=list)
    name: str = "fake"
    num_classes: int = 2
    max_batch_size: int = 1
    warm_up_sizes: tuple[int, ...] = (1,)
    calls: int = 0

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.calls += 1
        self.events.append(f"{self.graph.file} {images[0, 0, 0, 0]}")
        if self.calls - 1 == self.fails_at:
            raise MemoryError
        return logits_of(images[0]) + np.float32(self.added)

    def close(self) -> None:
        self.events.append(f"{self.graph.file} closed")


def logits_of(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of two classes at stride 4: the second where a cell's first pixel is bright."""
    bright = image[::4, ::4, 0].astype(np.float32) - 127.5
    return np.stack([-bright, bright])[None]


def half_bright(value: int) -> NDArray[np.uint8]:
    """Its upper half has the value 255, but the first pixel tells ``value``, which is dark."""
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:8] = 255
    image[0, 0] = value
    return image


def cases(events: list[str], *, labelled: bool = False) -> Cases:
    def at(size: tuple[int, int]) -> Iterator[Case]:
        for index in range(2):
            image = half_bright(index)
            events.append(f"pytorch {index}")
            # True labels of twice the size, all of class 1, which the upper half of the image is.
            truth = np.ones((2 * size[0], 2 * size[1]), np.uint8)
            expected = logits_of(image)
            agreement = partial(agreement_with, expected)
            yield Case(image, agreement, Labelled(truth, partial(label_map_of, expected)) if labelled else None)

    return at


def agreement_with(expected: NDArray[np.float32], rows: NDArray[np.float32], graph: GraphInfo) -> Agreement:
    return logits_agreement(expected, rows)


def label_map_of(logits: NDArray[np.float32], graph: GraphInfo) -> NDArray[np.uint8]:
    return labels_of(logits[0], (2 * graph.input_size[0], 2 * graph.input_size[1]))


def test_images_go_one_by_one_through_all_engines_and_pytorch_once() -> None:
    events: list[str] = []
    pairs: list[tuple[RuntimeName, GraphInfo]] = [("tensorrt", FP32), ("onnxruntime", FP16)]
    rows = verify(pairs, lambda _, graph: FakeEngine(graph, 0.25, events=events), cases(events), 2)
    assert events == [
        *("pytorch 0", "model.onnx 0", "half.onnx 0", "pytorch 1", "model.onnx 1", "half.onnx 1"),
        *("half.onnx closed", "model.onnx closed"),
    ]
    assert [(row.runtime, row.graph, row.images) for row in rows] == [("tensorrt", FP32, 2), ("onnxruntime", FP16, 2)]
    assert [row.agreement for row in rows] == [Agreement(1.0, 0.25)] * 2
    assert rows[0].fault == "largest logit error 2.50e-01 (at most 1e-03)"
    assert (rows[1].fault, rows[1].miou, rows[1].miou_lost) == (None, None, None)


def test_miou_is_compared_at_the_size_of_the_labels() -> None:
    all_dark = replace(FP16, bounds=Bounds(0.0))

    class Dark(FakeEngine):
        def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.stack([np.ones((4, 6), np.float32), np.zeros((4, 6), np.float32)])[None]

    (row,) = verify([("onnxruntime", all_dark)], lambda _, graph: Dark(graph), cases([], labelled=True), 2)
    (same,) = verify([("onnxruntime", FP16)], lambda _, graph: FakeEngine(graph), cases([], labelled=True), 2)
    assert (row.miou, same.miou_lost, same.fault) == (0.0, 0.0, None)
    assert same.miou == pytest.approx(0.25, abs=0.05)
    assert same.miou is not None
    assert row.miou_lost == pytest.approx(100 * same.miou)
    assert row.fault == f"{row.miou_lost:.2f} points of mIoU lost (at most 0.1)"


def test_an_engine_that_fails_fails_alone() -> None:
    engines = {FP32: FakeEngine(FP32, fails_at=0), FP16: FakeEngine(FP16)}
    other = replace(FP32, file="other.onnx")

    def open_engine(runtime: str, graph: GraphInfo) -> FakeEngine:
        if graph not in engines:
            raise EngineError("the graph is broken")
        return engines[graph]

    pairs: list[tuple[RuntimeName, GraphInfo]] = [("onnxruntime", graph) for graph in (FP32, FP16, other)]
    rows = {row.graph: row for row in verify(pairs, open_engine, cases([]), 2)}
    assert rows[other] == Row("onnxruntime", other, fault="it cannot be opened: the graph is broken")
    assert rows[FP32] == Row("onnxruntime", FP32, fault="it failed on image 1: MemoryError")
    assert (engines[FP32].calls, engines[FP16].calls) == (1, 2)
    assert (rows[FP16].fault, rows[FP16].images) == (None, 2)


def test_a_graph_that_cannot_be_loaded_fails_in_the_table(model_dir: Path, run: Verify) -> None:
    manifest = read_manifest(model_dir)
    path = model_dir / manifest.graph.file
    path.write_bytes(b"no graph")
    graphs = (replace(manifest.graph, sha256=file_sha256(path)), *manifest.graphs[1:])
    write_manifest(model_dir, replace(manifest, graphs=graphs))
    status, rows, out, _ = run(model_dir, "--runtime", "onnxruntime")
    verdicts = {row["graph"]: (row["images"], row["verdict"]) for row in rows}
    assert (status, verdicts) == (1, {"model.onnx": ("0", "FAILS"), "model-72x90-fp16.onnx": ("2", "ok")})
    assert "onnxruntime on model.onnx does not pass: it cannot be opened: onnxruntime cannot load" in out


def test_a_machine_that_only_serves_can_verify() -> None:
    code = (
        "import sys, model_export.verify, model_export.commands.verify\n"
        "print([name for name in ('torch', 'onnx', 'tqdm') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
