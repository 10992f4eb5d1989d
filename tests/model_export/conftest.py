"""A checkpoint with random weights and the released one, and model directories of them, made once for all tests."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model_export.__main__ import main
from tests.support.made_once import made_once
from tests.support.tiny_network import TINY_CONVOLUTIONAL
from trainer.checkpoint import save_checkpoint
from trainer.datasets import CAMVID_CLASSES
from trainer.model.ecenet import ECENet

SIZE = (72, 90)  # divides by neither 32 nor the pooling grids
LABELS_SIZE = (32, 96)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny convolutional network of 11 classes, by the name of ecenet-lite0; tests must not change it."""
    return made_once(tmp_path_factory, "run", save_random_weights) / "best.pt"


def save_random_weights(folder: Path) -> None:
    torch.manual_seed(0)
    model = ECENet(replace(TINY_CONVOLUTIONAL, num_classes=11))
    for module in model.modules():  # statistics that folding would get wrong if it did nothing
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    classes = [{"id": c.id, "name": c.name, "color": list(c.color)} for c in CAMVID_CLASSES]
    save_checkpoint(
        folder / "best.pt",
        model.config,
        model.state_dict(),
        architecture="ecenet-lite0",
        dataset="camvid",
        classes=classes,
        input_size=list(SIZE),
        metrics={"val_miou": 0.1},
    )


@pytest.fixture(scope="session")
def exported_dir(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model directory: logits of 72x90, fp32 (the default) and fp16; tests must not change it."""
    options = ["--precision", "fp32", "--precision", "fp16", "--version", "2.0.0", "--license-note", "research only"]

    def export(folder: Path) -> None:
        assert main(["onnx", str(checkpoint), "-o", str(folder / "tiny"), *options]) == 0

    return made_once(tmp_path_factory, "exported", export) / "tiny"


@pytest.fixture(scope="session")
def labels_dir(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``exported_dir``, float32 labels of the pixels of 32x96."""
    options = ["--size", "32x96", "--output", "labels", "--count", "2"]

    def export(folder: Path) -> None:
        assert main(["onnx", str(checkpoint), "-o", str(folder / "labels"), *options]) == 0

    return made_once(tmp_path_factory, "exported-labels", export) / "labels"


@pytest.fixture(scope="session")
def released_dir(reference_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model directory of the authors' small network: logits of 64x96, fp32 and fp16; beside it ``output.txt``."""
    options = ["--size", "64x96", "--precision", "fp32", "--precision", "fp16"]

    def export(folder: Path) -> None:
        with (folder / "output.txt").open("w") as output, redirect_stdout(output):
            released = reference_dir / "ecenet_swin_tiny_scale.ckpt"
            assert main(["onnx", str(released), "-o", str(folder / "released"), *options]) == 0

    return made_once(tmp_path_factory, "exported-released", export) / "released"
