"""``ecenet-export RUN -o DIR``: what it takes from a run, what it writes, and what it says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from model_export import onnx_export
from model_export.__main__ import main, with_command
from model_export.from_run import find_run
from service.model_directory.manifest import read_manifest
from trainer.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from trainer.checkpoint import model_config as config_of
from trainer.datasets import DatasetError
from trainer.prediction.model import ModelError
from trainer.weights.bundled import bundled_terms


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """CamVid's layout with two images to learn from and one of val, too few to hold one out of a calibration."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for index in range(count):
            labels = rng.integers(0, 11, (6, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            for folder, array in ((split, np.repeat(labels[..., None] * 23, 3, 2)), (f"{split}annot", labels)):
                path = tmp_path / "streets" / folder / f"{index:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return tmp_path / "streets"


@pytest.fixture
def run(checkpoint: Path, data: Path, tmp_path: Path) -> Path:
    """The folder of a run that names its data."""
    folder = tmp_path / "runs" / "streets"
    folder.mkdir(parents=True)
    shutil.copy(checkpoint, folder / "best.pt")
    (folder / "data.txt").write_text(f"{data}\n")
    return folder


def test_a_run_becomes_a_verified_model_directory(
    run: Path,
    exported_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its graph is the one that an export of the same checkpoint has traced."""
    monkeypatch.setattr(onnx_export, "trace", lambda *_: onnx.load(exported_dir / "model.onnx"))
    directory = tmp_path / "models" / "mine"
    assert main([str(run), "-o", str(directory)]) == 0
    manifest = read_manifest(directory)
    assert [graph.precision for graph in manifest.graphs] == ["fp32", "fp16"]
    assert (manifest.name, manifest.data, manifest.license) == ("mine", "streets, train split", "")
    assert manifest.golden is not None
    output = capsys.readouterr().out
    assert "there is no INT8 graph: " in output
    assert "gives 2 images to calibrate on, expected 4 or more" in output
    assert "on 1 labelled images of camvid val" in output
    assert output.splitlines()[-1] == f"next: ecenet-serve --model-dir {directory}"


def test_data_with_other_classes_is_refused_before_the_export(run: Path) -> None:
    content = read_checkpoint(run / "best.pt")
    classes = [{"id": index, "name": f"other {index}", "color": [index, 0, 0]} for index in range(11)]
    torch.save(content | {"classes": classes}, run / "best.pt")
    with pytest.raises(ModelError, match="class 0 is 'other 0' in the model and 'Sky' in camvid"):
        find_run(run)


def test_a_run_is_found_with_its_data(run: Path, data: Path) -> None:
    source = find_run(run)
    assert (source.checkpoint, source.data, source.kind, source.labelled_split) == (
        run / "best.pt",
        data,
        "camvid",
        "val",
    )
    shutil.rmtree(data / "val")
    assert find_run(run / "best.pt", data).labelled_split == "train"


@pytest.mark.parametrize(
    ("entries", "options", "license_"),
    [
        (
            {"train_config": {"model": {"pretrained": "bundled"}}},
            [],
            f"trained from the bundled model: {bundled_terms()}",
        ),
        ({"terms": "as stated"}, [], "trained from the bundled model: as stated"),
        ({"terms": "as stated"}, ["--license-note", "mine"], "mine"),
    ],
)
def test_a_model_has_the_terms_of_its_first_weights_unless_others_are_named(
    entries: dict[str, Any],
    options: list[str],
    license_: str,
    *,
    run: Path,
    exported_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx_export, "trace", lambda *_: onnx.load(exported_dir / "model.onnx"))
    content = read_checkpoint(run / "best.pt")
    save_checkpoint(
        tmp_path / "best.pt",
        config_of(content["config"]),
        content["weights"],
        input_size=content["input_size"],
        **entries,
    )
    assert main(["onnx", str(tmp_path / "best.pt"), "-o", str(tmp_path / "model"), *options]) == 0
    assert read_manifest(tmp_path / "model").license == license_


def test_a_run_without_a_checkpoint_or_data_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "data.txt").unlink()
    with pytest.raises(DatasetError, match="does not state the folder of its data; name it with --data"):
        find_run(run)
    with pytest.raises(CheckpointError, match=r"best\.pt does not exist"):
        find_run(tmp_path)


def test_the_word_model_may_be_left_out_before_a_path(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    for path in ("streets", "runs/absent", str(run)):
        assert with_command([path, "-o", "x"]) == ["model", path, "-o", "x"]
    for arguments in (["onnx", "streets"], ["verifi", "x"], ["--help"], []):
        assert with_command(arguments) == arguments
