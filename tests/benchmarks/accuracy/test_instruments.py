"""The instruments: figures that are known beforehand, and a tiny network that they leave as it is."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.accuracy import instruments, training
from benchmarks.accuracy.instruments import attention_entropy, effective_rank, measure, variance_inside_cells
from service.model_directory.manifest import ClassInfo
from tests.support.tiny_network import TINY
from trainer.config import LossWeights
from trainer.datasets import Sample
from trainer.model.ecenet import ECENet

NAMES = ("road", "sky", "tree")
SMALL = replace(TINY, num_classes=3, depths=(1, 1, 1, 1))


class Halves:
    """Eight images of 64 x 64 pixels, road below sky."""

    name = "halves"
    classes = tuple(ClassInfo(index, name, (index, index, index)) for index, name in enumerate(NAMES))
    pairs: Sequence[tuple[Path, Path]] = ()

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        labels = self.labels(index)
        return Sample(np.repeat(labels[..., None] * 60, 3, 2), labels)

    def labels(self, _index: int) -> NDArray[np.uint8]:
        return np.repeat(np.array([1, 0], np.uint8), 32)[:, None].repeat(64, 1)


def test_effective_rank_counts_directions_of_equal_variance() -> None:
    torch.manual_seed(0)
    feature = torch.randn(4, 6, 60, 60)
    assert effective_rank(feature) == pytest.approx(6, rel=0.01)
    feature[:, 3:] = feature[:, :3]  # three directions for six channels
    assert effective_rank(feature + 7) == pytest.approx(3, rel=0.01)


def test_variance_inside_cells_is_none_of_copies_and_all_of_noise_around_their_mean() -> None:
    torch.manual_seed(0)
    coarse = torch.randn(2, 3, 4, 5)
    copies = F.interpolate(coarse, scale_factor=4, mode="nearest")
    assert variance_inside_cells(copies, 4) == pytest.approx(0, abs=1e-6)
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 2, 6, 16)
    assert variance_inside_cells(stripes, 2) == pytest.approx(1)
    assert variance_inside_cells(stripes[..., :15], 2) == pytest.approx(1)  # a part of a cell does not count


def test_attention_is_uniform_without_a_query_and_certain_with_a_large_one() -> None:
    key = torch.eye(4)[None]  # four classes, one head of four channels
    assert attention_entropy(torch.zeros(1, 4, 2, 2), key, 1) == pytest.approx(1)
    query = torch.tensor([0.0, 80.0, 80.0, 80.0])[None, :, None, None].expand(1, 4, 2, 2)
    assert attention_entropy(query, key, 1) == pytest.approx(0, abs=1e-4)  # minus the scores: class 0 alone
    half = torch.tensor([0.0, 0.0, 80.0, 80.0])[None, :, None, None].expand(1, 4, 2, 2)
    assert attention_entropy(half, key, 1) == pytest.approx(math.log(2) / math.log(4), abs=1e-4)


def test_a_measurement_has_all_figures_and_leaves_the_network_as_it_is() -> None:
    torch.manual_seed(0)
    model = ECENet(SMALL).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    labels = torch.zeros(2, 64, 64, dtype=torch.uint8)
    labels[0, :8] = 2
    figures = measure(model, (images, labels), LossWeights(), NAMES)
    assert {name: len(parts) for name, parts in figures.items() if name != "gradient norm"} == {
        "effective rank": 8,
        "variance inside cells": 3,
        "attention entropy": 3,
        "gate std": 4,
        "presence": 2,
    }
    assert set(figures["presence"]) == {"road", "tree"}
    assert set(figures["gradient norm"]) == {"backbone"} | {
        name for name, part in model.decode_head.named_children() if list(part.parameters())
    }
    assert all(math.isfinite(value) for parts in figures.values() for value in parts.values())
    assert all(0 <= value <= 1 for name in ("attention entropy", "presence") for value in figures[name].values())
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert measure(model, (images, labels), LossWeights(), NAMES) == figures


def test_the_command_writes_a_table_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(instruments, "open_half_resolution", lambda _root, _split: Halves())
    monkeypatch.setattr(training, "load_imagenet_weights", lambda _backbone, _name: None)
    output = tmp_path / "steps.json"
    options = ["--data", "unused", "--steps", "1", "--every", "1", "--output", str(output)]
    assert instruments.main(options) == 0
    entries = json.loads(output.read_text())
    assert [entry["step"] for entry in entries] == [0, 1]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| Figure | step 0 | step 1 |"
    assert len(lines) == 2 + sum(len(parts) for name, parts in entries[0].items() if name != "step")


@pytest.mark.parametrize("option", ["--every", "--steps"])
def test_counts_below_1_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        instruments.main(["--data", "unused", option, "0"])
    assert ended.value.code == 2
    assert f"argument {option}: 0 is not 1 or more" in capsys.readouterr().err
