"""Training on CUDA: the losses of a CPU, in every precision; resuming, the moving average, pinned memory, two GPUs."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.build import build_state
from trainer.checkpoint import read_checkpoint
from trainer.config import load_config
from trainer.datasets import CamVid
from trainer.distributed import Ranks
from trainer.model.backbone import SwinBackbone, fused_window_attention
from trainer.schedule import MovingAverage
from trainer.train import main
from trainer.training_loop import AugmentedViews, BatchLoader, StepSettings, train_steps
from trainer.transforms import Augmentation

DEVICE = "cuda"
# Relative difference of the first epoch's cross entropy to float32 on a CPU. Convolutions of float32 round to TF32.
TOLERANCES = {"fp32": 1e-2, "bf16": 5e-2, "fp16": 5e-2}
SETTINGS = {
    "model.pretrained": "none",
    "model.principal_start": "false",
    "model.dropout": "0.0",  # the random numbers of a GPU are others
    "data.input_size": "[64, 64]",
    "data.crop_size": "[64, 64]",
    "schedule.epochs": "2",
    "schedule.batch_size": "4",
    "schedule.lr": "1e-4",
    "runtime.evaluate_every": "2",
    "runtime.keep_checkpoints": "9",
    "runtime.checkpoint_every": "3",
    "runtime.workers": "1",
    "runtime.report": "false",
    "runtime.tensorboard": "false",
}
STEPS = 8

pytestmark = pytest.mark.gpu

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CamVid in miniature, sixteen train and two val images of 64x64: each class a grey of its own, in blocks."""
    root = tmp_path_factory.mktemp("data") / "camvid"
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 2)):
        for index in range(count):
            labels = rng.integers(0, 11, (8, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            image = np.repeat(labels[..., None] * 23, 3, 2).astype(np.uint8)
            for folder, array in ((split, image), (f"{split}annot", labels)):
                path = root / folder / f"{index:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return root


@pytest.fixture(scope="module")
def train(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains in a folder, a new one unless it is named, and gives the folder."""

    def run(*options: str, folder: Path | None = None, **settings: str) -> Path:
        folder = folder or tmp_path_factory.mktemp("runs") / "run"
        assert main(arguments(data, folder, *options, **settings)) == 0
        return folder

    return run


def arguments(data: Path, folder: Path, *options: str, **settings: str) -> list[str]:
    merged = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
    sets = [part for name, value in merged.items() for part in ("--set", f"{name}={value}")]
    return ["camvid_lite0", "--data", str(data), "--output", str(folder), *sets, *options]


@pytest.fixture(scope="module")
def on_cpu(train: Train) -> Path:
    return train(runtime__device="cpu", schedule__precision="fp32")


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest distance of the floats of two state dicts, relative to the norm of the expected tensor."""
    assert found.keys() == expected.keys()
    pairs = [(found[name].double(), value.double()) for name, value in expected.items() if value.is_floating_point()]
    return max(float((a - b).norm() / (b.norm() + 1e-3)) for a, b in pairs)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_few_steps_have_the_losses_of_a_cpu(precision: str, train: Train, on_cpu: Path) -> None:
    run = train(runtime__device=DEVICE, schedule__precision=precision)
    found, expected = log_of(run), log_of(on_cpu)
    assert [entry["step"] for entry in found] == [STEPS // 2, STEPS]
    assert found[0]["loss_cross_entropy"] == pytest.approx(expected[0]["loss_cross_entropy"], rel=TOLERANCES[precision])
    assert all(np.isfinite(value) for entry in found for name, value in entry.items() if name.startswith("loss_"))
    weights = read_checkpoint(run / "last.pt")["weights"].values()
    assert all(torch.isfinite(value).all() for value in weights)


def test_a_run_resumes_to_the_weights_of_an_unbroken_one(train: Train) -> None:
    """From the middle of an epoch; sums on a GPU may come in another order, so the weights agree nearly."""
    settings = {"runtime__device": DEVICE, "schedule__precision": "fp32"}
    whole = train(**settings)
    start, parts = read_checkpoint(whole / "step-00000003.pt"), whole.with_name("parts")
    parts.mkdir()
    for name in ("step-00000003.pt", "config.toml"):
        (parts / name).write_bytes((whole / name).read_bytes())
    (parts / "last.pt").symlink_to("step-00000003.pt")
    train("--resume", folder=parts, **settings)
    found, expected = (read_checkpoint(folder / "last.pt") for folder in (parts, whole))
    assert found["training"]["step"] == STEPS
    assert difference(found["training"]["model"], expected["training"]["model"]) < 1e-3
    assert difference(found["weights"], expected["weights"]) < 1e-3
    assert difference(start["training"]["model"], expected["training"]["model"]) > 1e-3


def test_the_average_moves_by_its_formula() -> None:
    model = torch.nn.Linear(3, 2).to(DEVICE)
    average = MovingAverage(model, 0.9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update(model, 5)
    for name, value in average.model.state_dict().items():
        assert value.device.type == DEVICE
        torch.testing.assert_close(value, before[name] + 1 - 6 / 15)  # (1 + t) / (10 + t) is less than 0.9


def loader(data: Path, workers: int) -> BatchLoader:
    augmentation = Augmentation((64, 64), (64, 64), (1.0, 1.0), 0.0, 0.0)
    return BatchLoader(partial(AugmentedViews, CamVid(data, "train"), augmentation, 0), workers, pin_memory=True)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_the_host_waits_for_the_gpu_once_a_read(precision: str, data: Path) -> None:
    """PyTorch warns of each operation that waits; one reads the values of all four steps."""
    config = load_config(Path("camvid_lite0"), ["model.pretrained=none", f"schedule.precision={precision}"])
    ranks = Ranks(0, 1, torch.device(DEVICE, 0))
    state = build_state(config, 11, steps_per_epoch=4, ranks=ranks, precision=precision)
    settings = StepSettings(config.loss, precision=precision, read_every=4)
    batch = next(iter(loader(data, 0)(0, [[0, 1, 2, 3]])))
    list(train_steps(state, [batch] * 4, settings, ranks))  # the first steps allocate
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            assert len(list(train_steps(state, [batch] * 4, settings, ranks))) == 1
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([each for each in caught if "synchronizing CUDA operation" in str(each.message)]) <= 1


def test_batches_come_in_pinned_memory(data: Path) -> None:
    (batch,) = loader(data, 1)(0, [[0, 1]])
    assert all(tensor.is_pinned() for tensor in batch)
    moved = batch[0].to(DEVICE, non_blocking=True)
    assert torch.equal(moved.cpu(), batch[0])


@pytest.mark.gpu(count=2)
def test_two_gpus_train_as_one(data: Path, train: Train, tmp_path: Path) -> None:
    settings = {"runtime__device": DEVICE, "schedule__precision": "fp32"}
    one, two = log_of(train(**settings)), tmp_path / "two"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "trainer.train", *arguments(data, two, **settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for found, expected in zip(log_of(two), one, strict=True):
        assert found["loss_cross_entropy"] == pytest.approx(expected["loss_cross_entropy"], rel=1e-2)


@pytest.mark.parametrize("fused", [False, True])
def test_swin_on_a_gpu_is_that_of_a_cpu(fused: bool) -> None:
    """``fused`` is what TIMM_FUSED_ATTN=2 asks for."""
    torch.manual_seed(0)
    backbone = SwinBackbone(embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4).eval()
    image = torch.randn(1, 3, 72, 90)
    with torch.no_grad():
        expected = backbone(image)
        with fused_window_attention(backbone.to(DEVICE)) if fused else nullcontext():
            found = backbone(image.to(DEVICE))
    for stage, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(stage.cpu(), reference, rtol=1e-2, atol=1e-2)
