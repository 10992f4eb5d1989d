"""The count of operations against a count by hand, and the table of the named sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.accuracy.cost import cost_row, main
from benchmarks.accuracy.flops import count_flops
from tests.support.tiny_network import TINY
from trainer.model.attention import inverse_attention
from trainer.model.ecenet import NAMED_SIZES, ECENet, ModelConfig

CHANNELS, CLASSES = 8, 6


class ConvAndAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS)
        self.classes = nn.Parameter(torch.randn(1, CLASSES, CHANNELS))

    def forward(self, image: Tensor) -> Tensor:
        query = self.depthwise(self.conv(image)).flatten(2).transpose(1, 2)
        return inverse_attention(query, self.classes, self.classes, num_heads=2)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_convolutions_and_attention_are_counted_as_by_hand(device: str) -> None:
    height, width = 6, 10
    cells = height // 2 * (width // 2)
    convolution = 2 * cells * CHANNELS * 3 * 9
    depthwise = 2 * cells * CHANNELS * 25
    attention = 2 * (2 * cells * CLASSES * CHANNELS)  # scores, and their product with the values, over both heads
    expected = convolution + depthwise + attention
    assert count_flops(ConvAndAttention().to(device), (height, width)) == expected


def test_counting_leaves_the_model_as_it_was() -> None:
    model = ConvAndAttention().train()
    weights = model.conv.weight.clone()
    count_flops(model, (8, 8))
    assert model.training
    assert model.conv.weight.requires_grad
    assert torch.equal(model.conv.weight, weights)


@pytest.mark.parametrize("config", [replace(NAMED_SIZES["ecenet-lite0"], num_classes=11), TINY])
def test_the_count_without_computing_equals_that_of_a_real_pass(config: ModelConfig) -> None:
    model = ECENet(config).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 64, 96))
    assert count_flops(model, (64, 96)) == counter.get_total_flops() > 0


def test_a_row_tells_parameters_and_operations() -> None:
    assert cost_row("ecenet-lite0", 11, (352, 480)) == ["ecenet-lite0", "11", "3.65", "0.69", "7.2"]


def test_the_command_prints_a_row_per_size_and_class_count(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.accuracy.cost.NAMED_SIZES", {"ecenet-lite0": None})
    assert main(["--size", "64", "96", "--classes", "11", "19"]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert "GFLOPs at 64x96" in header
    assert [row.split(" | ")[1] for row in rows] == ["11", "19"]
