"""Training runs from the command line: what they learn, say and leave."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainer.small_runs import SMALL, arguments, read_log
from trainer import load_model
from trainer.checkpoint import read_checkpoint, read_entries
from trainer.config import load_config
from trainer.evaluate import main as evaluate_main
from trainer.metrics import Counts
from trainer.run import train
from trainer.train import main
from trainer.weights.bundled import bundled_terms

pytestmark = pytest.mark.usefixtures("tiny_sizes")


def test_a_run_that_no_longer_improves_ends_with_its_report_and_the_next_command(
    tiny_camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trainer.run.evaluate", lambda *_args, **_options: Counts(np.eye(11, dtype=np.int64)))
    run = tmp_path / "my run"
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
        f"next: ecenet-export '{run}' -o 'models/my run'",
    ]


def test_the_terms_of_the_bundled_weights_are_carried_on_from_run_to_run(
    tiny_camvid: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"schedule__epochs": "1", "runtime__evaluate_every": "1"}
    assert main(arguments(tiny_camvid, tmp_path / "first", **options)) == 0
    assert read_entries(tmp_path / "first" / "best.pt")["terms"] == ""
    content = read_checkpoint(tmp_path / "first" / "best.pt")
    content["train_config"]["model"]["pretrained"] = "bundled"
    del content["terms"]
    torch.save(content, tmp_path / "0.pt")
    with caplog.at_level(logging.INFO):
        for number in range(2):
            run = tmp_path / f"run{number}"
            given = {**options, "model__pretrained": str(tmp_path / f"{number}.pt")}
            assert main(arguments(tiny_camvid, run, **given)) == 0
            assert main(arguments(tiny_camvid, run, "--resume", **given)) == 0
            (run / "best.pt").rename(tmp_path / f"{number + 1}.pt")
    terms = bundled_terms()
    assert terms.startswith("Research use")
    assert read_entries(tmp_path / "2.pt")["terms"] == read_entries(run / "last.pt")["terms"] == terms
    assert caplog.text.count(f"terms of the bundled weights: {terms}; model.pretrained=imagenet starts without") == 4


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


def test_a_log_is_json_where_no_pixel_of_val_has_a_label(
    tiny_camvid: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (tiny_camvid / "valannot").iterdir():
        Image.fromarray(np.full((48, 64), 11, np.uint8)).save(path)
    with caplog.at_level(logging.INFO):
        assert main(arguments(tiny_camvid, tmp_path / "run")) == 0
    assert "epoch 2/2: no labelled pixel in val" in caplog.text
    assert "NaN" not in (tmp_path / "run" / "log.jsonl").read_text()
    assert read_entries(tmp_path / "run" / "last.pt")["metrics"] == {}


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
