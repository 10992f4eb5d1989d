"""A sequence of CamVid held out: no image of it is trained on, all others are, and what cannot be split is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy.unseen import main
from trainer.datasets import CamVid

NAMES = ("0001TP_006690", "0006R0_f00930", "0006R0_f00960", "0016E5_00390")


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        for folder in ("train", "trainannot"):
            path = tmp_path / "camvid" / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 6), number, np.uint8)).save(path)
    return tmp_path / "camvid"


def test_sequence_is_held_out(camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "unseen"
    assert main([str(camvid), str(output)]) == 0
    assert "2 images to train on, 2 of 0006R0 to evaluate on" in capsys.readouterr().out
    for split, expected in (("train", (0, 3)), ("val", (1, 2))):
        dataset = CamVid(output, split)
        assert [image.stem for image, _ in dataset.pairs] == [NAMES[number] for number in expected]
        assert [int(dataset.labels(index)[0, 0]) for index in range(len(dataset))] == list(expected)


@pytest.mark.parametrize(
    ("sequence", "message"),
    [("0006", "its sequences are 0001TP, 0006R0, 0016E5"), ("0006R0", "File exists")],
)
def test_what_cannot_be_split_is_told(
    camvid: Path, tmp_path: Path, sequence: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "unseen"
    if sequence == "0006R0":
        output.mkdir()
    assert main([str(camvid), str(output), "--sequence", sequence]) == 1
    assert message in capsys.readouterr().err
