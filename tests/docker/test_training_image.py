"""The image for training, at work: two processes by torchrun, hardened as their Job is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docker.containers import built, docker

# PyTorch with its CUDA are some GB to fetch, to unpack and to copy.
pytestmark = [pytest.mark.deployment, pytest.mark.slow, pytest.mark.timeout(3600)]

SETTINGS = {
    "model.pretrained": "none",
    "data.input_size": "[64, 64]",
    "data.crop_size": "[64, 64]",
    "schedule.epochs": "1",
    "schedule.batch_size": "4",
    "runtime.device": "cpu",
    "runtime.report": "false",
    "runtime.tensorboard": "false",
}


@pytest.fixture(scope="module")
def training_image(cpu_base: str) -> Iterator[str]:
    with built("docker/Dockerfile.train", "--build-arg", f"BASE_IMAGE={cpu_base}") as tag:
        yield tag


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """CamVid in miniature: each class a grey of its own, in blocks."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for index in range(count):
            labels = rng.integers(0, 11, (8, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            image = np.repeat(labels[..., None] * 23, 3, 2).astype(np.uint8)
            for folder, array in ((split, image), (f"{split}annot", labels)):
                path = tmp_path / "camvid" / folder / f"{index:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return tmp_path / "camvid"


def test_two_processes_train_in_the_image(training_image: str, data: Path, tmp_path: Path) -> None:
    """As user 10001, with a root that cannot be written and no way out of the container."""
    runs = tmp_path / "runs"
    runs.mkdir()
    runs.chmod(0o777)
    for folder in (*tmp_path.parents[:2], tmp_path):
        folder.chmod(0o755)
    hardened = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    mounts = ("--volume", f"{data}:/data/camvid:ro", "--volume", f"{runs}:/runs", "--shm-size", "256m")
    # Without a network the container's own name has no address.
    torchrun = ("torchrun", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2")
    train = ("-m", "trainer.train", "camvid_lite0", "--data", "/data/camvid", "--output", "/runs/run")
    settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    docker("run", "--rm", *hardened, *mounts, "--network", "none", training_image, *torchrun, *train, *settings)
    (entry,) = [json.loads(line) for line in (runs / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (entry["epoch"], entry["step"]) == (1, 2)
    assert 0 < entry["loss_cross_entropy"] < 10
    assert (runs / "run" / "best.pt").stat().st_size > 10_000_000
