"""A checkpoint with random weights, and model directories of it, made once for all tests of the export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_export.__main__ import main
from trainer.checkpoint import save_checkpoint
from trainer.datasets import CAMVID_CLASSES
from trainer.model.ecenet import build_model

SIZE = (72, 90)  # divides by neither 32 nor the pooling grids


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ecenet-lite0 of 11 classes; tests must not change it."""
    torch.manual_seed(0)
    model = build_model("ecenet-lite0", 11)
    for module in model.modules():  # statistics that folding would get wrong if it did nothing
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    path = tmp_path_factory.mktemp("run") / "best.pt"
    classes = [{"id": c.id, "name": c.name, "color": list(c.color)} for c in CAMVID_CLASSES]
    save_checkpoint(
        path,
        model.config,
        model.state_dict(),
        architecture="ecenet-lite0",
        dataset="camvid",
        classes=classes,
        input_size=list(SIZE),
        metrics={"val_miou": 0.1},
    )
    return path


@pytest.fixture(scope="session")
def exported_dir(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model directory: logits of 72x90, fp32 (the default) and fp16; tests must not change it."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    options = ["--precision", "fp32", "--precision", "fp16", "--version", "2.0.0", "--license-note", "research only"]
    assert main(["onnx", str(checkpoint), "-o", str(directory), *options]) == 0
    return directory


@pytest.fixture(scope="session")
def labels_dir(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``exported_dir``, float32 labels at image size."""
    directory = tmp_path_factory.mktemp("models") / "labels"
    assert main(["onnx", str(checkpoint), "-o", str(directory), "--output", "labels", "--count", "2"]) == 0
    return directory
