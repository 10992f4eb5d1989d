"""Learning rate, parameter groups, moving average."""

from __future__ import annotations

import pytest
import torch

from trainer.config import ConfigError
from trainer.model.ecenet import ECENet, build_model
from trainer.schedule import MovingAverage, classifier_multiple, lr_factor, parameter_groups


def test_rate_warms_up_and_decays_to_nothing() -> None:
    factors = [lr_factor(step, total_steps=100, warmup_steps=10, power=0.9) for step in (0, 9, 10, 55, 100, 120)]
    assert factors == pytest.approx([0.1, 1.0, 1.0, 0.5**0.9, 0.0, 0.0])


def test_norms_and_biases_do_not_decay_and_the_head_is_faster(tiny_model: ECENet) -> None:
    groups = parameter_groups(tiny_model, lr=1e-3, head_lr_multiple=10, classifier_lr_multiple=10, weight_decay=0.05)
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {
        (1e-3, 0.05),
        (1e-3, 0.0),
        (1e-2, 0.05),
        (1e-2, 0.0),
    }
    grouped = [parameter for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    assert {id(p) for p in grouped} == {id(p) for p in tiny_model.parameters()}
    assert len(grouped) == len(list(tiny_model.parameters()))


def test_earlier_blocks_learn_more_slowly(tiny_model: ECENet) -> None:
    groups = parameter_groups(
        tiny_model, lr=1.0, head_lr_multiple=3, classifier_lr_multiple=6, weight_decay=0.05, layer_decay=0.5
    )
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}  # type: ignore[attr-defined]
    named = dict(tiny_model.named_parameters())
    expected = {  # depths 1, 2, 1, 1: five blocks
        "backbone.features.patch_embed.proj.weight": 0.5**6,
        "backbone.features.layers_0.blocks.0.norm1.weight": 0.5**5,
        "backbone.features.layers_1.downsample.reduction.weight": 0.5**4,
        "backbone.features.layers_1.blocks.1.attn.qkv.weight": 0.5**3,
        "backbone.features.layers_3.blocks.0.mlp.fc2.bias": 0.5,
        "backbone.norms.0.weight": 1.0,
        "decode_head.laterals.0.weight": 3.0,
        "decode_head.classifier.weight": 6.0,
        "decode_head.classifier.bias": 6.0,
    }
    assert {name: rates[id(named[name])] for name in expected} == expected


def test_position_tables_do_not_decay(tiny_model: ECENet) -> None:
    groups = parameter_groups(tiny_model, lr=1.0, head_lr_multiple=1, classifier_lr_multiple=1, weight_decay=0.05)
    (free,) = [group["params"] for group in groups if group["weight_decay"] == 0]
    table = dict(tiny_model.named_parameters())["backbone.features.layers_0.blocks.0.attn.relative_position_bias_table"]
    assert any(parameter is table for parameter in free)  # type: ignore[attr-defined]


def test_the_classifier_has_the_rate_of_its_width(tiny_model: ECENet) -> None:
    assert [classifier_multiple(width) for width in (64, 256)] == [48, 12]
    groups = parameter_groups(tiny_model, lr=0.5, head_lr_multiple=3, weight_decay=0.05)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}  # type: ignore[attr-defined]
    assert rates[id(tiny_model.decode_head.classifier.weight)] == 0.5 * 3072 / 16


def test_layer_decay_is_for_transformers() -> None:
    with pytest.raises(ConfigError, match=r"layer_decay is 0\.9, expected 1"):
        parameter_groups(build_model("ecenet-lite0", 3), lr=1, head_lr_multiple=1, weight_decay=0, layer_decay=0.9)


def test_moving_average_follows_weights_and_statistics() -> None:
    model = torch.nn.BatchNorm1d(2)
    average = MovingAverage(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.get_buffer("running_mean").fill_(2.0)
    model.get_buffer("num_batches_tracked").fill_(7)
    average.update(model, step=100)
    assert average.model.weight.tolist() == [2.0, 2.0]
    assert average.model.get_buffer("running_mean").tolist() == [1.0, 1.0]
    assert int(average.model.get_buffer("num_batches_tracked")) == 7
    assert not average.model.weight.requires_grad


def test_first_steps_of_the_average_count_more() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, 0.999)
    with torch.no_grad():
        average.model.weight.fill_(0.0)
        model.weight.fill_(1.0)
    average.update(model, step=0)
    assert average.model.weight.item() == pytest.approx(0.9)
