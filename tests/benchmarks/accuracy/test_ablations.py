"""ECENet with a part taken out: that part is gone, and nothing else."""

from __future__ import annotations

import pytest
import torch

from benchmarks.accuracy.variants import VARIANTS, build_variant, parameters
from trainer.losses import criterion
from trainer.model.ecenet import ECENet

CHANNELS, CLASSES, WIDTH = (24, 40, 112, 320), 5, 64


def build(name: str) -> ECENet:
    torch.manual_seed(0)
    return build_variant(name, CLASSES)


def class_embeddings(model: ECENet, image: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    model.decode_head.class_presence.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    with torch.inference_mode():
        model.eval()(image)
    return seen[0]


def test_explicit_embeddings_follow_the_image_and_learned_ones_do_not() -> None:
    images = torch.randn(2, 3, 64, 64)
    explicit, learned = (class_embeddings(build(name), images) for name in ("ecenet", "learned-classes"))
    assert not torch.allclose(explicit[0], explicit[1], atol=1e-4)
    torch.testing.assert_close(learned[0], learned[1], rtol=1e-5, atol=1e-6)
    assert learned.shape == (2, CLASSES, WIDTH)


def test_learned_embeddings_take_a_weight_per_class_and_channel_in_the_place_of_each_extraction() -> None:
    full, learned = build("ecenet"), build("learned-classes")
    extraction = parameters(full.decode_head.class_extraction)
    assert parameters(learned) == parameters(full) - extraction + 4 * CLASSES * WIDTH


def test_without_fr_only_a_norm_stands_before_each_lateral() -> None:
    full, without = build("ecenet"), build("no-fr")
    reconstruction = parameters(full.decode_head.feature_reconstruction)
    assert parameters(without) == parameters(full) - reconstruction + 2 * sum(CHANNELS)
    stage = torch.randn(2, 24, 8, 8) * 7 + 3
    feature, _ = without.decode_head.feature_reconstruction[0](stage)
    torch.testing.assert_close(feature.mean(1), torch.zeros(2, 8, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(feature, (stage - stage.mean(1, True)) / stage.std(1, False, keepdim=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ecenet", {"cross_entropy", "auxiliary", "diversity", "presence"}),
        ("fcn", {"cross_entropy"}),
        ("no-fr", {"cross_entropy", "auxiliary", "presence"}),
        ("no-auxiliary", {"cross_entropy", "diversity", "presence"}),
        ("no-diversity", {"cross_entropy", "auxiliary", "presence"}),
        ("no-presence", {"cross_entropy", "auxiliary", "diversity"}),
        ("released-diversity", {"cross_entropy", "auxiliary", "diversity", "presence"}),
        ("learned-classes", {"cross_entropy", "auxiliary", "diversity", "presence"}),
    ],
)
def test_each_variant_is_trained_on_its_own_terms(name: str, expected: set[str]) -> None:
    model, labels = build(name).train(), torch.randint(0, CLASSES, (2, 64, 64))
    losses = criterion(model(torch.randn(2, 3, 64, 64)), labels, VARIANTS[name].loss)
    assert {term for term, value in losses._asdict().items() if value > 0} == expected
    sum(losses, torch.zeros(())).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


def test_all_variants_balance_the_classes() -> None:
    assert all(variant.loss.class_balance for variant in VARIANTS.values())


def test_an_unknown_variant_names_those_that_are_there() -> None:
    with pytest.raises(ValueError, match="'unet' is unknown; there are ecenet, fcn"):
        build_variant("unet", CLASSES)
