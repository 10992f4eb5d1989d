"""Runs side by side: their figures, curves and classes, and what differs in their configurations."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoint import save_checkpoint
from trainer.model.ecenet import ECENet
from trainer.report.command import main

SCORES = {"a": (0.4, 0.5), "b": (0.625, 0.6)}


@pytest.fixture
def runs(tmp_path: Path, tiny_model: ECENet) -> list[Path]:
    """Two runs of two epochs that differ in a setting."""
    for place, (name, scores) in enumerate(SCORES.items()):
        write_run(tmp_path / name, tiny_model, scores, epochs=2 + place)
    return [tmp_path / name for name in SCORES]


def write_run(folder: Path, model: ECENet, scores: tuple[float, ...], epochs: int, names: str = "ros") -> None:
    classes = [{"id": index, "name": f"{letter}<", "color": [0, 0, 0]} for index, letter in enumerate(names)]
    config = {"schedule": {"epochs": epochs, "lr": 0.1}}
    save_checkpoint(folder / "best.pt", model.config, model.state_dict(), classes=classes, train_config=config)
    log: list[dict[str, Any]] = [
        {"epoch": epoch, "loss_a": 2.0, "loss_b": 1.0, "lr": 0.1, "seconds": 60.0, "val_miou": score,
         "class_iou": [score, None, score / 2]}
        for epoch, score in enumerate(scores, 1)
    ]  # fmt: skip
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))


def test_runs_are_compared_at_their_best_evaluations(runs: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "new" / "both.html"
    assert main([*map(str, runs), "--output", str(target)]) == 0
    page = target.read_text(encoding="utf-8")
    rows = re.findall(r'</i>([^<]+)</td><td class="number">([^<]+)</td><td class="number">([^<]+)</td>', page)
    assert rows == [(str(runs[0]), "50.00", "2 / 2"), (str(runs[1]), "62.50", "1 / 2")]
    bars = re.findall(r'title="[^"]*/(\w)">([^<]*)</span>.*?width:([\d.]+)%;background:(#\w+)".*?<b>([^<]*)</b>', page)
    dash = "–"  # noqa: RUF001
    assert bars == [
        ("a", "r&lt;", "50.00", "#3b82f6", "50.00"),
        ("b", "", "62.50", "#f59e0b", "62.50"),
        ("a", "o&lt;", "0.00", "#3b82f6", dash),
        ("b", "", "0.00", "#f59e0b", dash),
        ("a", "s&lt;", "25.00", "#3b82f6", "25.00"),
        ("b", "", "31.25", "#f59e0b", "31.25"),
    ]
    assert page.count("<svg") == 3
    assert "<tr><td>schedule.epochs</td><td>2</td><td>3</td></tr>" in page
    assert "schedule.lr" not in page


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"seconds": "60"}, "line 1 has seconds '60', expected a number"),
        ({"class_iou": 0.5}, "line 1 has class_iou 0.5, expected a list of numbers"),
        ({"class_iou": [0.5, "x"]}, "line 1 has class_iou [0.5, 'x'], expected a list of numbers"),
    ],
)
def test_a_log_of_another_writer_is_told(
    entry: dict[str, Any], message: str, runs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (runs[0] / "log.jsonl").write_text(json.dumps({"epoch": 1, "val_miou": 0.5, **entry}))
    assert main([*map(str, runs), "--output", str(tmp_path / "both.html")]) == 1
    assert message in capsys.readouterr().err


def test_evaluations_without_a_score_are_passed_over(
    runs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (runs[0] / "log.jsonl").write_text('{"epoch": 1, "val_miou": null}\n{"epoch": 2, "val_miou": 0.25}')
    assert main([*map(str, runs), "--output", str(tmp_path / "both.html")]) == 0
    assert '<td class="number">25.00</td><td class="number">2 / 2</td>' in (tmp_path / "both.html").read_text()
    (runs[0] / "log.jsonl").write_text('{"epoch": 1, "val_miou": null}')
    assert main([*map(str, runs), "--output", str(tmp_path / "both.html")]) == 1
    assert f"{runs[0]} has not been evaluated yet" in capsys.readouterr().err


def test_a_full_disk_is_told_with_the_file(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_bytes(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "both.html"
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert main([*map(str, runs), "--output", str(target)]) == 1
    error = capsys.readouterr().err
    assert error == f"ecenet-train report: [Errno 28] No space left on device: '{target}'\n"
    assert not target.exists()


def test_runs_of_one_configuration_are_told_so(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(runs[0]), str(runs[0])]) == 0
    assert "The runs have the same configuration." in (tmp_path / "comparison.html").read_text(encoding="utf-8")


def test_what_does_not_compare_ends_with_a_sentence(
    runs: list[Path], tiny_model: ECENet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "c", tiny_model, (0.5,), epochs=1, names="rox")
    assert main([*map(str, runs), str(tmp_path / "c")]) == 1
    assert f"{tmp_path / 'c'} has other classes than {runs[0]}" in capsys.readouterr().err
    (runs[1] / "log.jsonl").write_text('{"epoch": 1}\n')
    assert main([*map(str, runs)]) == 1
    assert f"{runs[1]} has not been evaluated yet" in capsys.readouterr().err
