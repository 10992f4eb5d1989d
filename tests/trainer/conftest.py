"""A network small enough for tests, and CamVid in miniature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.tiny_network import TINY, TINY_SIZES
from trainer.model.ecenet import NAMED_SIZES, ECENet


@pytest.fixture
def tiny_model() -> ECENet:
    torch.manual_seed(0)
    return ECENet(TINY)


@pytest.fixture
def tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that name a size train a tiny network."""
    for name, config in TINY_SIZES.items():
        monkeypatch.setitem(NAMED_SIZES, name, config)


@pytest.fixture
def tiny_camvid(tmp_path: Path) -> Path:
    """Eight train and two val images of 48x64: each class a grey of its own, in blocks, and a void corner."""
    root = tmp_path / "camvid"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for index in range(count):
            labels = rng.integers(0, 11, (6, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            image = np.repeat(labels[..., None] * 23, 3, 2).astype(np.uint8)
            labels[:4, :4] = 11
            for folder, array in ((split, image), (f"{split}annot", labels)):
                path = root / folder / f"{index:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return root
