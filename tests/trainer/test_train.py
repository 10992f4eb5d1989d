"""Training runs from the command line: files, resuming, mistakes."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import trainer
from tests.support.limits import HANG_S
from tests.support.tiny_network import shrink
from trainer import load_model
from trainer.checkpoint import read_checkpoint, read_entries
from trainer.config import load_config
from trainer.datasets.cityscapes import CITYSCAPES_CLASSES
from trainer.evaluate import main as evaluate_main
from trainer.metrics import Counts
from trainer.progress import Progress
from trainer.run import train
from trainer.train import main

pytestmark = pytest.mark.usefixtures("tiny_sizes")

SMALL = {
    "model.pretrained": "none",
    "data.input_size": "[64, 64]",
    "data.crop_size": "[32, 64]",
    "schedule.epochs": "2",
    "schedule.batch_size": "2",
    "runtime.evaluate_every": "2",
    "runtime.workers": "0",
    "runtime.report": "false",
    "runtime.tensorboard": "false",
    "runtime.timed_steps": "0",
}


def arguments(data: Path, output: Path, *extra: str, **changes: str) -> list[str]:
    settings = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return ["camvid_lite0", "--data", str(data), "--output", str(output), "--threads", "1", *options, *extra]


PROGRAM = """
from tests.support.tiny_network import shrink
from trainer.distributed import leave
from trainer.train import main
shrink()
leave(main())
"""


def start(data: Path, output: Path, **changes: str) -> subprocess.Popen[str]:
    """A run in a process, and a group, of its own."""
    command = [sys.executable, "-c", PROGRAM, *arguments(data, output, **changes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + HANG_S
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.005)


def signal_at(step: int, number: int, patch: pytest.MonkeyPatch) -> None:
    """Have this process get a signal when it has counted so many steps."""
    count, steps = Progress.__call__, itertools.count(1)

    def counted(self: Progress, *values: object) -> None:
        count(self, *values)  # type: ignore[arg-type]
        if next(steps) == step:
            signal.raise_signal(number)

    patch.setattr(Progress, "__call__", counted)


def train_until_killed(options: list[str], step: int) -> None:
    """Train in this process, which a step kills."""
    shrink()
    with pytest.MonkeyPatch.context() as patch:
        signal_at(step, signal.SIGKILL, patch)
        main(options)


def assert_equal_weights(first: Path, second: Path) -> None:
    expected, actual = (read_checkpoint(path)["weights"] for path in (first, second))
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


def read_log(run: Path) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def test_a_killed_run_resumes_to_the_weights_of_an_unbroken_one(tiny_camvid: Path, tmp_path: Path) -> None:
    """Killed between two steps of an epoch, between two checkpoints."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(arguments(tiny_camvid, whole, runtime__keep_checkpoints="9")) == 0

    options = arguments(tiny_camvid, parts, runtime__checkpoint_every="3")
    killed = f"from tests.trainer.test_train import train_until_killed; train_until_killed({options}, 5)"
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
    assert "stopping with a checkpoint; Ctrl-C again stops at once" in capsys.readouterr().err
    assert not (tmp_path / "run" / "last.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_no_longer_improves_ends_with_its_report_and_the_next_command(
    tiny_camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trainer.run.evaluate", lambda *_args, **_options: Counts(np.eye(11, dtype=np.int64)))
    run = tmp_path / "run"
    options = arguments(tiny_camvid, run, "--patience", "1", schedule__epochs="9", runtime__evaluate_every="1")
    with caplog.at_level(logging.INFO):
        assert main(options) == 0
    assert [entry["epoch"] for entry in read_log(run)] == [1, 2]
    lines = [record.getMessage() for record in caplog.records]
    assert lines[-5:] == [
        "epoch 1/9: mIoU 100.00, the best so far",
        "epoch 2/9: mIoU 100.00, best 100.00 in epoch 1",
        "ends early: no better mIoU in the last 1 evaluation",
        "mIoU on val: best 100.00 in epoch 1",
        f"next: ecenet-export {run} -o models/run",
    ]


def test_a_callback_gets_each_step_and_evaluation(tiny_camvid: Path, tmp_path: Path) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    overrides = [f"{name}={value}" for name, value in {**SMALL, "schedule.epochs": "1"}.items()]
    config = load_config(Path("camvid_lite0"), overrides)
    train(config, tiny_camvid, tmp_path / "run", on_log=lambda step, values: logged.append((step, dict(values))))
    assert [step for step, _ in logged] == [1, 2, 3, 4, 4]
    (entry,) = read_log(tmp_path / "run")
    losses = [values["loss/cross_entropy"] for _, values in logged[:4]]
    assert np.mean(losses) == pytest.approx(entry["loss_cross_entropy"])
    assert logged[4][1]["val/miou"] == entry["val_miou"]
    assert logged[3][1]["schedule/lr"] == entry["lr"]


def test_a_folder_is_all_that_a_run_needs(
    tiny_camvid: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    short = [*small, "--set", "data.repeat=1", "--set", "schedule.epochs=1", "--set", "runtime.timed_steps=2"]
    with caplog.at_level(logging.INFO):
        assert main(["camvid", "--threads", "1", *short]) == 0
    assert "8 images to learn from, 2 to evaluate on, 11 classes (camvid)" in caplog.text
    assert " on this machine at most: " in caplog.text
    assert "warning: val has 2 images" in caplog.text
    (entry,) = read_log(tmp_path / "runs" / "camvid")
    assert entry["step"] == 4  # the timed steps are taken back

    assert main(["camvid", "--resume"]) == 0  # by the configuration of the run
    assert read_log(tmp_path / "runs" / "camvid") == [entry]
    assert main(["camvid", "--data", "camvid"]) == 1
    assert "leave --data out" in capsys.readouterr().err


def test_a_run_leaves_what_belongs_to_it(tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(arguments(tiny_camvid, run, runtime__report="true", runtime__tensorboard="true")) == 0
    log = read_log(run)
    assert [(entry["epoch"], entry["step"]) for entry in log] == [(1, 4), (2, 8)]
    assert "val_miou" not in log[0]
    assert len(log[1]["class_iou"]) == 11  # type: ignore[arg-type]
    entries = read_entries(run / "best.pt")
    assert entries["input_size"] == [64, 64]
    assert entries["metrics"]["val_miou"] == log[1]["val_miou"]
    assert not load_model(run / "best.pt").training
    assert "Confusion" in (run / "report.html").read_text()
    assert list((run / "tensorboard").glob("events.*"))
    assert 'pretrained = "none"' in (run / "config.toml").read_text()

    capsys.readouterr()
    assert evaluate_main([str(run / "best.pt"), "--data", str(tiny_camvid)]) == 0
    (line,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("mIoU")]
    assert float(line[1]) == pytest.approx(100 * float(log[1]["val_miou"]), abs=0.005)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("threads", ["-1", "99999999999", "many"])
def test_an_impossible_number_of_threads_is_refused(threads: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["camvid", f"--threads={threads}"])
    assert "--threads" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("schedule.epoch=3", "did you mean schedule.epochs?"),
        ("model.name=ecenet-huge", "'ecenet-huge' is unknown"),
        ("schedule.precision=fp8", "precision is 'fp8'"),
        ("schedule.batch_size=9", "batch_size is 9"),
        ("schedule.accumulate=3", "batch_size 2 is not a multiple of schedule.accumulate 3"),
        ("data.dataset=camvit", "camvid"),
        ("model.pretrained=absent.pth", "absent.pth"),
    ],
)
def test_mistakes_end_with_a_sentence(
    setting: str, message: str, tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tiny_camvid, tmp_path / "run", "--set", setting)) == 1
    assert message in capsys.readouterr().err


def test_a_folder_that_is_not_there_and_one_that_is_not_named_end_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "my-dta")]) == 1
    assert "my-dta is neither a folder of data nor a configuration; the configurations" in capsys.readouterr().err
    assert main(["camvid_lite0"]) == 1
    assert "--data and --output are needed to train by a configuration" in capsys.readouterr().err


def test_the_complete_configuration_can_be_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["camvid_lite0", "--print-config", "--set", "schedule.epochs=3"]) == 0
    (tmp_path / "printed.toml").write_text(capsys.readouterr().out)
    assert main([str(tmp_path / "printed.toml"), "--print-config"]) == 0
    assert "epochs = 3\n" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"runtime__gradient_checkpointing": "true"}, {"runtime__channels_last": "false"}])
def test_the_runtime_does_not_change_what_is_learned(
    options: dict[str, str], tiny_camvid: Path, tmp_path: Path
) -> None:
    logs = []
    for name, changes in (("plain", {}), ("changed", options)):
        assert main(arguments(tiny_camvid, tmp_path / name, schedule__epochs="1", **changes)) == 0
        (entry,) = read_log(tmp_path / name)
        logs.append(entry["loss_cross_entropy"])
    assert logs[0] == pytest.approx(logs[1], rel=2e-2)


class Compiled(torch.nn.Module):
    """Stands for what ``torch.compile`` gives, which takes minutes: it has no length, as the real one."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def __len__(self) -> int:
        raise TypeError("a compiled module does not support len()")

    def forward(self, images: torch.Tensor) -> object:
        self.calls += 1
        return self.network(images)


def test_a_compiled_network_is_the_one_that_is_trained(
    tiny_camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Compiled] = []

    def compiled(network: torch.nn.Module) -> Compiled:
        made.append(Compiled(network))
        return made[-1]

    monkeypatch.setattr(torch, "compile", compiled)
    logs = []
    for name, wanted in (("plain", "false"), ("compiled", "true")):
        run = tmp_path / name
        assert main(arguments(tiny_camvid, run, schedule__epochs="1", runtime__compile=wanted)) == 0
        (entry,) = read_log(run)
        logs.append(entry["loss_cross_entropy"])
    assert logs[0] == logs[1]
    assert [network.calls for network in made] == [4]


def test_a_transformer_trains_by_the_recipe_for_ade20k(tmp_path: Path) -> None:
    """Sliding windows, kept ratios, layer decay, accumulation and recomputed activations, on a tree of six images."""
    root = tmp_path / "ADEChallengeData2016"
    rng = np.random.default_rng(0)
    for split, count in (("training", 4), ("validation", 2)):
        for index in range(count):
            size = (9, 12) if index % 2 else (12, 8)
            labels = rng.integers(0, 151, size).repeat(10, 0).repeat(10, 1).astype(np.uint8)
            for folder, pixels, suffix in (
                ("images", np.stack([labels] * 3, 2), "jpg"),
                ("annotations", labels, "png"),
            ):
                path = root / folder / split / f"ADE_{split[:-3]}_{index:08}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    changes = {
        "data__input_size": "[64, 64]",
        "data__crop_size": "[64, 64]",
        "data__slide_stride": "[48, 48]",
        "schedule__epochs": "1",
        "schedule__batch_size": "4",
        "schedule__accumulate": "2",
        "schedule__layer_decay": "0.9",
        "runtime__gradient_checkpointing": "true",
    }
    _, *options = arguments(tmp_path, tmp_path / "run", **changes)
    assert main(["ade20k_swin_tiny", *options]) == 0
    (entry,) = read_log(tmp_path / "run")
    assert len(entry["class_iou"]) == 150  # type: ignore[arg-type]
    assert read_entries(tmp_path / "run" / "best.pt")["classes"][149]["name"] == "flag"
