"""``ecenet-export selfcheck --report``: engine and service of a real model directory, measured and written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.__main__ import main
from model_export.selfcheck_report import report as reports
from model_export.selfcheck_report.load import LoadError
from model_export.selfcheck_report.report import JSON_NAME, PAGE_NAME, Plan, selfcheck_report, write_report
from service.engines.base import EngineError
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.model_directory.golden import make_golden, write_golden
from service.model_directory.manifest import FileInfo, file_sha256, read_manifest, write_manifest
from tests.support.brightness_model import Infer


def test_the_report_has_engine_service_and_verdicts(
    exported_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["selfcheck", str(exported_dir), "--engine", "onnxruntime", "--repeats", "1", "--seconds", "0.3"]
    assert main([*arguments, "--report", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [str(tmp_path / "out" / name) for name in (JSON_NAME, PAGE_NAME)]
    report = json.loads((tmp_path / "out" / JSON_NAME).read_text())
    assert report["model"] == {"name": "tiny", "version": "2.0.0", "classes": 11}
    assert (report["engine"]["runtime"], report["engine"]["precision"]) == ("onnxruntime", "fp32")
    assert [row["batch_size"] for row in report["batches"]] == [1, 2, 4, 8]
    for row in report["batches"]:
        assert row["equal_labels"] > 0.999
        assert row["images_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["ms"])
    assert report["images_per_s"] == max(row["images_per_s"] for row in report["batches"])
    load = report["service"]["load"]
    assert [row["clients"] for row in load] == [1, 8, 32]
    assert all(set(row["answers"]) == {"200"} for row in load)
    assert report["machine"]["packages"]["onnxruntime"]
    held = {row["text"]: row["held"] for row in report["expectations"]}
    assert held["every batch size agrees with PyTorch on the golden inputs"]
    assert held["the service answers every request with 200"]
    page = (tmp_path / "out" / PAGE_NAME).read_text()
    assert "tiny 2.0.0: self-check" in page
    assert "onnxruntime" in page


def test_an_engine_that_cannot_be_had_is_in_the_report_too(exported_dir: Path, tmp_path: Path) -> None:
    report = selfcheck_report(exported_dir, {"engine": "onnxruntime-cuda"}, Plan(clients=()))
    assert "--engine onnxruntime-cuda cannot be used" in report["failure"]
    assert report["batches"] == []
    json_path, page_path = write_report(tmp_path / "out", report)
    assert json.loads(json_path.read_text())["expectations"][0]["held"] is False
    assert "cannot be used" in page_path.read_text()


def test_the_golden_inputs_are_of_the_size_that_serves(
    tiny_model_dir: Path, brightness_logits: Infer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not always the first of the model: ``speed`` takes the smallest, an engine's file has its own."""
    images = {size: np.zeros((2, *size, 3), np.uint8) for size in ((64, 64), (32, 64))}
    golden = {size: make_golden(batch, brightness_logits(batch), {}) for size, batch in images.items()}
    write_golden(tiny_model_dir / "golden.npz", golden)
    info = FileInfo("golden.npz", file_sha256(tiny_model_dir / "golden.npz"))
    manifest = read_manifest(tiny_model_dir)
    graphs = (replace(manifest.graph, input_size=(64, 64)), manifest.graph)
    write_manifest(tiny_model_dir, replace(manifest, graphs=graphs, golden=info))
    monkeypatch.setenv("ECENET_SPEED", "true")
    report = selfcheck_report(tiny_model_dir, {"engine": "onnxruntime"}, Plan(repeats=1, clients=()))
    assert (report["failure"], report["engine"]["input_size"]) == ("", [32, 64])
    assert [row["equal_labels"] for row in report["batches"]] == [1.0] * len(report["batches"])


def test_a_gpu_that_is_lost_is_in_the_report_by_its_first_error(
    exported_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the engine's close fails too."""

    def lost(call: str) -> Callable[..., None]:
        def fail(*_: Any) -> None:
            raise EngineError(f"{call} gave cudaErrorLaunchFailure")

        return fail

    for method, call in (("infer", "cudaGraphLaunch"), ("close", "cudaEventSynchronize")):
        monkeypatch.setattr(OnnxRuntimeEngine, method, lost(call))
    report = selfcheck_report(exported_dir, {"engine": "onnxruntime"}, Plan(clients=()))
    assert report["failure"] == "cudaGraphLaunch gave cudaErrorLaunchFailure"
    assert report["engine"]["runtime"] == "onnxruntime"


def test_a_service_that_does_not_start_is_exit_status_1_with_the_report(
    exported_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise LoadError("the service was not ready: no room")

    monkeypatch.setattr(reports, "running_service", refuse)
    arguments = ["selfcheck", str(exported_dir), "--engine", "onnxruntime", "--repeats", "1"]
    assert main([*arguments, "--report", str(tmp_path)]) == 1
    assert "ecenet-export: the service was not ready: no room" in capsys.readouterr().err
    assert json.loads((tmp_path / JSON_NAME).read_text())["service"]["failure"] == "the service was not ready: no room"
