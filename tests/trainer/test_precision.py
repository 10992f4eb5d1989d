"""The choice of a precision, and depthwise convolutions that stay in float32 under bf16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer import precision
from trainer.precision import autocast, choose_precision, keep_depthwise_in_float


def test_only_slow_depthwise_convolutions_are_changed() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, stride=2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 1),
    )
    names = list(model.state_dict())
    image = torch.randn(1, 8, 16, 16)
    expected = model(image)
    assert keep_depthwise_in_float(model) == 2
    assert [type(layer).__name__ for layer in model] == ["FloatConv2d", "FloatConv2d", "Conv2d", "Conv2d"]
    assert list(model.state_dict()) == names
    assert torch.equal(model(image), expected)


def test_autocast_is_left_and_entered_again() -> None:
    layer = nn.Conv2d(4, 4, 5, padding=2, groups=4)
    image = torch.randn(1, 4, 8, 8).bfloat16()
    exact = layer(image.float())
    keep_depthwise_in_float(layer)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(image)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, exact.bfloat16())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx2", "fma"}, "fp32"), ({"avx512f", "avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16"), (set(), "fp32")],
)
def test_auto_is_bf16_where_the_cpu_multiplies_it(
    flags: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_flags", lambda: flags)
    assert choose_precision("auto", torch.device("cpu")) == expected
    assert choose_precision("fp16", torch.device("cpu")) == "fp16"


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_computes_in_the_precision(name: str, dtype: torch.dtype) -> None:
    with autocast(name, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
