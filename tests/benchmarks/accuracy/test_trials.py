"""Changes to ECENet's training: what each changes, and that inference computes with the same network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from benchmarks.accuracy.recipe import Recipe
from benchmarks.accuracy.variants import COMPARED, HEADS, VARIANTS, build_variant
from trainer.model.decode_head import HeadOutput
from trainer.model.ecenet import ECENet

TRIALS = [name for name, variant in VARIANTS.items() if variant.trial]
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def build(name: str) -> ECENet:
    torch.manual_seed(0)
    return build_variant(name, 5)


def trained(model: ECENet) -> HeadOutput:
    """Output in training, with the same dropout each time."""
    torch.manual_seed(2)
    output = model.train()(IMAGES)
    assert isinstance(output, HeadOutput)
    return output


@pytest.mark.parametrize("name", TRIALS)
def test_the_network_is_that_of_ecenet(name: str) -> None:
    ours, changed = build("ecenet").eval(), build(name).eval()
    changed.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        assert torch.equal(ours(IMAGES), changed(IMAGES))
    assert VARIANTS[name].network(name) == "ecenet"


def test_the_keys_start_larger_and_the_values_as_they_are() -> None:
    heads = [build(name).decode_head for name in ("ecenet", "key-scale-4")]
    plain, scaled = (head.get_parameter("semantics_attention.1.key_value.weight") for head in heads)
    assert torch.equal(scaled[:64], 4 * plain[:64])
    assert torch.equal(scaled[64:], plain[64:])


def test_the_finest_mask_joins_the_auxiliary_ones() -> None:
    plain, whole = build("ecenet"), build("finest-mask")
    seen: list[Tensor] = []
    plain.decode_head.semantics_attention[0].register_forward_hook(
        lambda _module, _inputs, output: seen.append(output[1])
    )
    expected = trained(plain).auxiliary_masks + seen[0]
    torch.testing.assert_close(trained(whole).auxiliary_masks, expected)
    torch.testing.assert_close(trained(copy.deepcopy(whole)).auxiliary_masks, expected)
    torch.testing.assert_close(trained(whole).logits, trained(build("ecenet")).logits)


def test_the_sums_of_masks_after_each_stage_join_the_auxiliary_ones() -> None:
    plain, deep = build("ecenet"), build("deep-masks")
    coarsest: list[Tensor] = []
    plain.decode_head.initial_masks.register_forward_hook(lambda _module, _inputs, output: coarsest.append(output))
    without_finest = trained(plain).auxiliary_masks
    with_finest = trained(build("finest-mask")).auxiliary_masks
    for model in (deep, copy.deepcopy(deep)):
        sums = trained(model).auxiliary_masks
        assert sums.shape == (2, 5, 64, 16)
        first = nn.functional.interpolate(coarsest[0], (16, 16), mode="bilinear")
        torch.testing.assert_close(sums[:, :, 0::4], first)
        torch.testing.assert_close(sums[:, :, 2::4], without_finest)
        torch.testing.assert_close(sums[:, :, 3::4], with_finest)


def test_losses_fade_while_the_others_stay() -> None:
    start, middle, end = (VARIANTS["fading-masks"].loss_at(progress) for progress in (0, 0.5, 1))
    assert start == VARIANTS["ecenet"].loss == VARIANTS["ecenet"].loss_at(0.7)
    assert (middle.auxiliary, end.auxiliary) == (start.auxiliary / 2, 0)
    assert (middle.cross_entropy, middle.presence) == (start.cross_entropy, start.presence)
    last = VARIANTS["fading-losses"].loss_at(1)
    assert (last.auxiliary, last.diversity, last.presence, last.cross_entropy) == (0, 0, 0, start.cross_entropy)


def test_norms_and_dropout_of_the_head_alone_change() -> None:
    slow = build("slow-norms")
    momenta = {
        part: {module.momentum for module in getattr(slow, part).modules() if isinstance(module, nn.BatchNorm2d)}
        for part in ("backbone", "decode_head")
    }
    assert momenta["decode_head"] == {0.02}
    assert 0.02 not in momenta["backbone"]
    assert build("no-dropout").decode_head.dropout.p == 0
    assert build("ecenet").decode_head.dropout.p > 0


def test_a_warm_up_is_a_share_of_the_recipes() -> None:
    names = ("ecenet", "half-warm-up", "long-warm-up")
    assert [VARIANTS[name].recipe(Recipe(450, warmup_steps=40)).warmup_steps for name in names] == [40, 20, 60]


def test_trials_are_run_by_name_alone() -> None:
    assert {"key-scale-2", "finest-mask", "deep-masks", "fading-losses", "slow-norms"} < set(TRIALS)
    assert not set(TRIALS) & {*COMPARED, *HEADS}
