"""The command line: refusals before a run begins, and the configuration that it prints."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.small_runs import arguments
from trainer.train import main

pytestmark = pytest.mark.usefixtures("tiny_sizes")


@pytest.mark.parametrize("threads", ["-1", "99999999999", "many"])
def test_an_impossible_number_of_threads_is_refused(threads: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["camvid", f"--threads={threads}"])
    assert "--threads" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.name=ecenet-huge", "model 'ecenet-huge' is unknown; the sizes are ecenet-lite0, "),
        ("data.dataset=camvit", "data.dataset 'camvit' is unknown; did you mean 'camvid'?"),
        (
            "data.sources=[{dataset = 'camvid', root = 'a'}, {dataset = 'vok', root = 'b'}]",
            "data.sources[1].dataset 'vok' is unknown; did you mean 'voc'?",
        ),
    ],
)
def test_an_unknown_network_or_data_set_is_not_printed(
    setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["camvid_lite0", "--print-config", "--set", setting]) == 1
    written = capsys.readouterr()
    assert written.out == ""
    assert message in written.err


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_image_that_breaks_a_run_is_told_in_a_sentence_and_leaves_no_process(
    workers: str, tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tiny_camvid / "train" / "03.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert main(arguments(tiny_camvid, tmp_path / "run", data__cache="false", runtime__workers=workers)) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"ecenet-train: {broken} cannot be read: the PNG")
    assert multiprocessing.active_children() == []


def test_labels_that_are_void_all_over_are_told_before_a_step_is_timed(
    tiny_camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights of balanced classes are no numbers then."""
    for path in (tiny_camvid / "trainannot").iterdir():
        Image.fromarray(np.full((48, 64), 11, np.uint8)).save(path)
    options = arguments(tiny_camvid, tmp_path / "run", loss__class_balance="true", runtime__timed_steps="1")
    assert main(options) == 1
    assert "no label of train has a class, so there is nothing to learn" in capsys.readouterr().err
