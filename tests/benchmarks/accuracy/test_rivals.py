"""The rival heads: shapes, gradients, size, and what is changed of the backbone."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn

from benchmarks.accuracy.hamburger import LightHamburger
from benchmarks.accuracy.rivals import dilate
from benchmarks.accuracy.variants import VARIANTS, build_variant, parameters
from trainer.model.backbone import ConvBackbone
from trainer.model.decode_head import HeadOutput
from trainer.model.ecenet import ECENet
from trainer.schedule import parameter_groups

RIVALS = [name for name, variant in VARIANTS.items() if variant.is_rival]


@pytest.fixture(scope="module", params=RIVALS)
def rival(request: pytest.FixtureRequest) -> ECENet:
    torch.manual_seed(0)
    return build_variant(request.param, 5)


@pytest.mark.parametrize(("size", "cells"), [((64, 96), (16, 24)), ((70, 101), (18, 26)), ((33, 31), (9, 8))])
def test_logits_have_stride_4_at_any_size(rival: ECENet, size: tuple[int, int], cells: tuple[int, int]) -> None:
    rival.eval()
    with torch.inference_mode():
        logits = rival(torch.randn(1, 3, *size))
    assert logits.shape == (1, 5, *cells)
    assert torch.isfinite(logits).all()


def test_the_hamburger_head_is_exported_for_any_batch() -> None:
    head = LightHamburger((8, 8, 8), 32).eval()
    features = [torch.rand(2, 8, side, side) for side in (16, 8, 4, 2)]
    shapes = ([{0: torch.export.Dim("batch")}] * 4,)
    program = torch.export.export(head, (features,), dynamic_shapes=shapes)
    three = [torch.rand(3, *feature.shape[1:]) for feature in features]
    torch.testing.assert_close(program.module()(three), head(three))


def test_a_row_of_a_batch_equals_the_single_call(rival: ECENet) -> None:
    rival.eval()
    images = torch.randn(2, 3, 45, 64)
    with torch.inference_mode():
        torch.testing.assert_close(rival(images)[1:], rival(images[1:]), atol=1e-4, rtol=1e-4)


def test_every_parameter_gets_a_gradient_and_there_are_no_auxiliary_terms(rival: ECENet) -> None:
    rival.train()
    output = rival(torch.randn(2, 3, 64, 64))
    assert isinstance(output, HeadOutput)
    assert output.diverse == output.diverse_peaks == ()
    output.logits.square().sum().backward()
    assert [name for name, parameter in rival.named_parameters() if parameter.grad is None] == []


def test_the_classifier_may_have_a_rate_of_its_own(rival: ECENet) -> None:
    groups = parameter_groups(rival, lr=1.0, head_lr_multiple=8.0, classifier_lr_multiple=24.0, weight_decay=0.0)
    fast = {
        id(weight) for group in groups if group["lr"] == 24.0 for weight in cast(list[nn.Parameter], group["params"])
    }
    gives_classes = [module for module in rival.decode_head.modules() if getattr(module, "out_channels", 0) == 5]
    assert fast == {id(weight) for module in gives_classes for weight in module.parameters()}


def test_a_rival_has_most_of_the_parameters_of_the_head_it_replaces_and_no_more(rival: ECENet) -> None:
    ours = parameters(build_variant("ecenet", 5).decode_head)
    assert 0.45 * ours < parameters(rival.decode_head) <= ours


def test_the_dilated_backbone_keeps_its_weights_and_ends_at_stride_16() -> None:
    torch.manual_seed(0)
    backbone = ConvBackbone("tf_efficientnet_lite0").eval()
    image, weights = torch.randn(1, 3, 64, 64), {k: v.clone() for k, v in backbone.state_dict().items()}
    with torch.inference_mode():
        plain, dilated = backbone(image), dilate(backbone, "tf_efficientnet_lite0").eval()(image)
    assert [x.shape[2] for x in dilated] == [16, 8, 4, 4]
    assert all(torch.equal(value, weights[key]) for key, value in backbone.state_dict().items())
    for before, after in zip(plain[:3], dilated[:3], strict=True):
        torch.testing.assert_close(before, after)
