"""The whole network: sizes, batches, gradients."""

from __future__ import annotations

import pytest
import torch

from trainer.config import LossWeights
from trainer.losses import criterion
from trainer.model import build_model, named_config
from trainer.model.ecenet import NAMED_SIZES, ECENet


@pytest.mark.parametrize("size", [(64, 96), (50, 71), (33, 35), (7, 130)])
@pytest.mark.parametrize("name", ["lite", "swin"])
def test_any_image_size_gives_logits_at_stride_four(name: str, size: tuple[int, int], tiny_model: ECENet) -> None:
    model = (build_model("ecenet-lite0", 11) if name == "lite" else tiny_model).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, *size))
    assert logits.shape == (1, 11, -(-size[0] // 4), -(-size[1] // 4))
    assert torch.isfinite(logits).all()


def test_a_row_of_a_batch_equals_the_single_call(tiny_model: ECENet) -> None:
    images = torch.randn(3, 3, 60, 52, generator=torch.Generator().manual_seed(1))
    tiny_model.eval()
    with torch.no_grad():
        batched = tiny_model(images)
        single = torch.cat([tiny_model(image[None]) for image in images])
    torch.testing.assert_close(batched, single, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["ecenet-lite0", "tiny swin"])
def test_every_parameter_gets_a_gradient(name: str, tiny_model: ECENet) -> None:
    torch.manual_seed(0)
    model = tiny_model if name == "tiny swin" else build_model(name, 11)
    output = model(torch.randn(2, 3, 64, 96))
    losses = criterion(output, torch.randint(0, 11, (2, 64, 96)), LossWeights())
    torch.stack(losses).sum().backward()
    idle = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []


def test_compact_default_has_the_stated_parameters() -> None:
    assert sum(parameter.numel() for parameter in build_model("ecenet-lite0", 11).parameters()) == 3_648_358


def test_released_sizes_have_the_released_width() -> None:
    for name in ("ecenet-swin-tiny", "ecenet-swin-base", "ecenet-swin-large"):
        config = NAMED_SIZES[name]
        assert (config.channels, config.num_heads) == (256, 4)
    assert NAMED_SIZES["ecenet-swin-base"].window_size == 12
    assert NAMED_SIZES["ecenet-swin-base"].embed_dim == 128


def test_unknown_size_names_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'ecenet-huge' is unknown.*ecenet-lite0"):
        named_config("ecenet-huge", 11)
