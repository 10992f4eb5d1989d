"""``ecenet-export selfcheck --report``: engine and service of a real model directory, measured and written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_export.__main__ import main
from model_export.selfcheck_report.report import JSON_NAME, PAGE_NAME, Plan, selfcheck_report, write_report


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
