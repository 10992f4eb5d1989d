"""Runs that end before their end, by a signal, a full disk or a loss that is no number, and go on from a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import trainer
from tests.support.limits import HANG_S
from tests.trainer.small_runs import PROGRAM, arguments, assert_equal_weights, read_log, signal_at, start, wait_for
from trainer.checkpoint import read_checkpoint, read_entries
from trainer.datasets.cityscapes import CITYSCAPES_CLASSES
from trainer.progress import Progress
from trainer.train import main

pytestmark = pytest.mark.usefixtures("tiny_sizes")


def test_a_killed_run_resumes_to_the_weights_of_an_unbroken_one(tiny_camvid: Path, tmp_path: Path) -> None:
    """Killed between two steps of an epoch, between two checkpoints."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(arguments(tiny_camvid, whole, runtime__keep_checkpoints="9")) == 0

    options = arguments(tiny_camvid, parts, runtime__checkpoint_every="3")
    killed = f"from tests.trainer.small_runs import train_until_killed; train_until_killed({options}, 5)"
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL
    assert (parts / "step-00000003.pt").exists()  # an epoch has four steps
    assert read_entries(parts / "last.pt")["steps_done"] < 5

    torch.manual_seed(99)
    (parts / "log.jsonl").unlink(missing_ok=True)  # as if killed between checkpoint and log
    assert main(arguments(tiny_camvid, parts, "--resume", runtime__checkpoint_every="3")) == 0
    assert_equal_weights(whole / "last.pt", parts / "last.pt")
    assert_equal_weights(whole / "best.pt", parts / "best.pt")
    assert read_log(whole) == read_log(parts)
    assert [entry["epoch"] for entry in read_log(parts)] == [1, 2]
    assert sorted(path.name for path in parts.glob("step-*.pt")) == ["step-00000006.pt", "step-00000008.pt"]
    assert sorted(path.name for path in whole.glob("step-*.pt")) == ["step-00000004.pt", "step-00000008.pt"]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_sigterm_ends_a_run_with_a_checkpoint_of_its_last_step(workers: str, tiny_camvid: Path, tmp_path: Path) -> None:
    """Sent to the whole group, as torchrun does: the processes that prepare batches get it too."""
    run = tmp_path / "run"
    endless = {"schedule__epochs": "1000", "runtime__evaluate_every": "1000"}
    process = start(tiny_camvid, run, **endless, runtime__workers=workers)
    wait_for(run / "last.pt", process)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 143
    done = read_entries(run / "last.pt")["steps_done"]
    assert f"stopped after step {done}, as asked; --resume continues from there" in errors
    assert (run / "last.pt").resolve().name == f"step-{done:08}.pt"


@pytest.mark.parametrize(("step", "number"), [(2, signal.SIGINT), (4, signal.SIGTERM)])
def test_a_stopped_run_resumes_to_the_weights_of_an_unbroken_one(
    step: int, number: int, tiny_camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped inside an epoch, and at the last step of one, whose evaluation and log entry are still done."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    every = {"runtime__evaluate_every": "1"}
    assert main(arguments(tiny_camvid, whole, **every)) == 0
    with monkeypatch.context() as patch:
        signal_at(step, number, patch)
        assert main(arguments(tiny_camvid, parts, **every)) == 128 + number
    assert read_entries(parts / "last.pt")["steps_done"] == step
    assert len(read_log(parts)) == step // 4
    assert main(arguments(tiny_camvid, parts, "--resume", **every)) == 0
    assert_equal_weights(whole / "last.pt", parts / "last.pt")
    assert read_log(whole) == read_log(parts)


def test_a_run_of_mixed_sources_resumes_to_the_weights_of_an_unbroken_one(
    tiny_camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the example of the documentation: half of the other images are seen in each epoch."""
    monkeypatch.chdir(tmp_path)
    Path("DATA/cityscapes/train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(8):
        classes = np.array([info.color for info in CITYSCAPES_CLASSES], np.uint8)[rng.integers(0, 19, (4, 4))]
        labels = classes.repeat(16, 0).repeat(16, 1)
        Image.fromarray(np.hstack([labels, labels])).save(f"DATA/cityscapes/train/{index}.jpg", quality=95)
    example = (Path(trainer.__file__).parent / "README.md").read_text().split("```toml\n")[1].split("```")[0]
    Path("mixed.toml").write_text(example)
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def run(output: Path, *extra: str) -> int:
        return main(["mixed.toml", *arguments(tiny_camvid, output, *extra)[1:]])

    assert run(whole) == 0
    assert read_entries(whole / "best.pt")["train_images"] == 8 + 4
    assert read_entries(whole / "best.pt")["dataset"] == "camvid"
    with monkeypatch.context() as patch:
        signal_at(8, signal.SIGTERM, patch)
        assert run(parts) == 128 + signal.SIGTERM
    assert run(parts, "--resume") == 0
    assert_equal_weights(whole / "last.pt", parts / "last.pt")
    assert read_log(whole) == read_log(parts)


def test_a_second_ctrl_c_ends_at_once(
    tiny_camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "__call__", interrupted)
    assert main(arguments(tiny_camvid, tmp_path / "run")) == 130
    errors = capsys.readouterr().err
    assert "stopping with a checkpoint; Ctrl-C again stops at once" in errors
    assert errors.endswith("ecenet-train: stopped\n")  # there may be checkpoints, so none of them is spoken of
    assert not (tmp_path / "run" / "last.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_is_not_overwritten_and_none_is_invented(
    tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tiny_camvid, tmp_path / "run", "--resume")) == 1
    assert "there is no" in capsys.readouterr().err
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "last.pt").touch()
    assert main(arguments(tiny_camvid, tmp_path / "run")) == 1
    assert "add --resume" in capsys.readouterr().err


def test_a_changed_configuration_is_told_before_anything_is_written(
    tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    short = {"schedule__epochs": "1", "runtime__evaluate_every": "9"}
    assert main(arguments(tiny_camvid, run, **short)) == 0
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert main(arguments(tiny_camvid, run, "--resume", schedule__lr="0.5")) == 1
    message = capsys.readouterr().err
    assert "schedule.epochs: 1 -> 2; schedule.lr: 0.0003 -> 0.5" in message
    assert "--accept-changes" in message
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before
    assert main(arguments(tiny_camvid, run, "--resume", "--accept-changes")) == 0
    assert [entry["epoch"] for entry in read_log(run)] == [1, 2]
    for folder in ("train", "trainannot"):
        (tiny_camvid / folder / "07.png").unlink()
    assert main(arguments(tiny_camvid, run, "--resume")) == 1
    assert "images of the training split: 8 -> 7" in capsys.readouterr().err


def test_a_run_is_not_resumed_with_other_classes(
    tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(arguments(tiny_camvid, run, schedule__epochs="1")) == 0
    content = read_checkpoint(run / "last.pt")
    content["classes"][3]["name"], content["classes"][4]["name"] = "Pavement", "Road"
    torch.save(content, run / "last.pt")
    assert main(arguments(tiny_camvid, run, "--resume", "--accept-changes")) == 1
    error = capsys.readouterr().err
    assert "last.pt was trained on the classes ('Sky', 'Building', 'Pole', 'Pavement', 'Road'" in error
    assert "name it as model.pretrained of a new run" in error


def test_a_full_disk_ends_the_run_and_keeps_what_is_there(tiny_camvid: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(arguments(tiny_camvid, run, schedule__epochs="1")) == 0
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    command = [sys.executable, "-c", limit + PROGRAM, *arguments(tiny_camvid, run, "--resume", "--accept-changes")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "step-00000008.pt cannot be written" in done.stderr or "best.pt cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert read_entries(run / "last.pt")["steps_done"] == 4
    assert not list(run.glob("*.part"))
    assert main(arguments(tiny_camvid, run, "--resume", "--accept-changes")) == 0


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint(
    tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    mad = {"schedule__lr": "10.0", "schedule__warmup_epochs": "0", "schedule__clip_norm": "0"}
    status = main(
        arguments(
            tiny_camvid, run, runtime__checkpoint_every="1", loss__cross_entropy="1e6", schedule__epochs="30", **mad
        )
    )
    assert status == 1
    message = capsys.readouterr().err
    assert "is not a number at step" in message
    step = int(message.split("at step ")[1].split(":")[0])
    content = read_checkpoint(run / "last.pt")
    assert content["steps_done"] == step
    assert all(torch.isfinite(value).all() for value in content["training"]["model"].values())


def test_a_run_is_not_resumed_with_another_network(
    tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(arguments(tiny_camvid, run, schedule__epochs="1")) == 0
    options = arguments(tiny_camvid, run, "--resume", "--accept-changes", model__name="ecenet-swin-tiny")
    assert main(options) == 1
    assert "holds the network ecenet-lite0, the configuration names ecenet-swin-tiny, so" in capsys.readouterr().err

    content = read_checkpoint(run / "last.pt")
    for entries, name in ((content, "train_images"), (content["training"], "optimizer"), (content["training"], "log")):
        kept = entries.pop(name)
        torch.save(content, run / "last.pt")
        assert main(arguments(tiny_camvid, run, "--resume", schedule__epochs="1")) == 1
        assert f"cannot be resumed from: its entry {name!r} is missing or malformed" in capsys.readouterr().err
        entries[name] = kept
