"""The terms of the criterion against hand-made values and the formulas written out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from trainer.config import RELEASED, LossWeights
from trainer.datasets import CamVid
from trainer.losses import (
    balanced_class_weights,
    class_pixels,
    criterion,
    diversity_loss,
    mask_loss,
    overlap_loss,
    presence_loss,
    present_classes,
)
from trainer.model.decode_head import HeadOutput
from trainer.model.feature_reconstruction import FeatureReconstruction


def written_out(masks: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Focal and dice per (image, class) pair, in loops."""
    focal, dice, pairs = 0.0, 0.0, 0
    for image, label in zip(masks.double(), labels, strict=True):
        valid = label != 255
        for index in label[valid].unique().tolist():
            p = image[index][valid].sigmoid()
            t = (label[valid] == index).double()
            entropy = F.binary_cross_entropy(p, t, reduction="none")
            p_t, alpha_t = p * t + (1 - p) * (1 - t), 0.25 * t + 0.75 * (1 - t)
            focal += float((alpha_t * (1 - p_t) ** 2 * entropy).mean())
            dice += float(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
            pairs += 1
    return focal / pairs, dice / pairs


def test_mask_loss_equals_the_formulas() -> None:
    torch.manual_seed(0)
    masks = torch.randn(2, 5, 6, 7)
    labels = torch.randint(0, 3, (2, 6, 7))  # classes 3 and 4 are absent
    labels[:, :2] = 255
    focal, dice, pairs = mask_loss(masks, labels)
    assert int(pairs) == 6
    assert (float(focal / pairs), float(dice / pairs)) == pytest.approx(written_out(masks, labels), rel=1e-5)


def test_overlap_loss_equals_the_formula_for_the_classes_that_are_there() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 6, 7), torch.randint(0, 3, (2, 6, 7))
    labels[0, :4] = 255
    labels[0, 4:] = 2
    expected = []
    for image, label in zip(logits.double(), labels, strict=True):
        valid = label != 255
        for index in label[valid].unique().tolist():
            p, t = image.softmax(0)[index][valid], (label[valid] == index).double()
            expected.append(float(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)))
    loss, pairs = overlap_loss(logits, labels)
    assert int(pairs) == len(expected) == 4
    assert float(loss) == pytest.approx(sum(expected), rel=1e-5)


def test_overlap_loss_is_zero_for_a_perfect_answer_and_counts_a_small_class_like_a_large_one() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[0, 0, :4] = 1
    right = F.one_hot(labels, 2).permute(0, 3, 1, 2) * 100.0
    assert float(overlap_loss(right, labels)[0]) == pytest.approx(0, abs=1e-6)
    all_large = torch.tensor([100.0, 0.0])[None, :, None, None].expand(1, 2, 32, 32)
    loss, _ = overlap_loss(all_large, labels)
    assert float(loss) == pytest.approx((1 - 1 / 5) + (1 - (2 * 1020 + 1) / (1024 + 1020 + 1)), rel=1e-5)


def test_void_pixels_and_absent_classes_do_not_count() -> None:
    torch.manual_seed(0)
    masks, labels = torch.randn(1, 4, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    labels[:, 0] = 255
    changed = masks.clone()
    changed[:, :, 0] += 5  # void rows
    changed[:, 1:] -= 3  # absent classes
    assert torch.equal(torch.stack(mask_loss(masks, labels)), torch.stack(mask_loss(changed, labels)))


def test_all_void_gives_zero_and_a_gradient() -> None:
    masks = torch.randn(1, 4, 4, 4, requires_grad=True)
    focal, dice, pairs = mask_loss(masks, torch.full((1, 4, 4), 255))
    (focal + dice).backward()
    assert focal.item() == dice.item() == pairs.item() == 0
    assert masks.grad is not None
    assert not masks.grad.any()


def test_diversity_loss_counts_channels_with_a_peak_of_their_own() -> None:
    apart = torch.zeros(1, 9)
    apart[0, :4] = 1  # four channels, each all at one position of its own
    assert float(diversity_loss(apart, 4)) == 0
    together = torch.zeros(1, 9)
    together[0, 0] = 1
    assert float(diversity_loss(together, 4)) == 0.75


def test_presence_loss_equals_a_case_by_hand() -> None:
    """Two images, three classes: the first image has classes 0 and 2, the second class 1 and void."""
    labels = torch.tensor([[[0, 2], [2, 0]], [[1, 255], [1, 1]]])
    shares = torch.tensor(
        [
            [[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.75, 0.05, 0.2]],
            [[0.9, 0.05, 0.05], [0.2, 0.4, 0.4], [0.3, 0.3, 0.4]],
        ]
    )
    loss, pairs = presence_loss(shares.log() + 3, labels)  # a constant changes no softmax
    assert int(pairs) == 3
    assert float(loss) == pytest.approx(-(math.log(0.5) + math.log(0.2) + math.log(0.4)), rel=1e-5)
    output = HeadOutput(torch.zeros(2, 3, 1, 1), torch.zeros(2, 3, 1, 1), (), shares.log())
    weighted = criterion(output, labels, LossWeights(auxiliary=0, diversity=0, presence=0.3)).presence
    assert float(weighted) == pytest.approx(0.3 * float(loss) / 3, rel=1e-5)


def test_classes_that_are_present_are_those_with_a_pixel() -> None:
    labels = torch.full((2, 3, 3), 255)
    labels[0, 0, 0], labels[0, 1, 1] = 3, 0
    assert present_classes(labels, 4).tolist() == [[True, False, False, True], [False] * 4]


def test_presence_of_void_alone_is_zero_and_has_a_gradient() -> None:
    logits = torch.randn(1, 3, 3, requires_grad=True)
    loss, pairs = presence_loss(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == pairs.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def diversity(diverse: torch.Tensor, **options: str) -> torch.Tensor:
    """The diversity term of one stage (B, C, H, W)."""
    output = HeadOutput(torch.zeros(len(diverse), 2, 1, 1), torch.empty(0), (diverse,), torch.empty(0))
    weights = LossWeights(cross_entropy=0, auxiliary=0, diversity=1, presence=0, **options)  # type: ignore[arg-type]
    return criterion(output, torch.zeros(len(diverse), 4, 4, dtype=torch.long), weights).diversity


def test_diversity_does_not_depend_on_the_scale_but_in_the_released_form() -> None:
    torch.manual_seed(0)
    diverse = torch.randn(2, 6, 5, 7)
    scales = torch.tensor([0.1, 1.0, 3.0, 10.0, 30.0, 100.0])[:, None, None]
    torch.testing.assert_close(diversity(diverse * scales), diversity(diverse), rtol=0, atol=1e-4)
    assert diversity(100 * diverse, diversity_form=RELEASED) < diversity(diverse, diversity_form=RELEASED) - 0.2


def test_released_diversity_is_that_of_the_peaks_as_they_are() -> None:
    torch.manual_seed(0)
    diverse = torch.randn(2, 6, 5, 7)
    peaks = diverse.flatten(2).softmax(2).amax(1)
    expected = 1 - peaks.sum(1).mean() / 6
    torch.testing.assert_close(diversity(diverse, diversity_form=RELEASED), expected)


def test_a_gate_of_exactly_zero_gives_numbers() -> None:
    torch.manual_seed(0)
    reconstruction = FeatureReconstruction(8)
    torch.nn.init.zeros_(reconstruction.get_parameter("gate.2.weight"))
    _, diverse = reconstruction(torch.randn(2, 8, 5, 7))
    assert not diverse.any()
    loss = diversity(diverse)
    assert float(loss.detach()) == pytest.approx(1 - 1 / 4)  # 35 positions of 1/35 each, over 4 channels
    loss.backward()
    gradients = [p.grad for p in reconstruction.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_criterion_weighs_its_terms() -> None:
    torch.manual_seed(0)
    output = random_output(1)
    labels = torch.randint(0, 3, (1, 16, 16))
    whole, terms = (
        LossWeights(diversity_form=RELEASED),
        ("cross_entropy", "overlap", "auxiliary", "diversity", "presence"),
    )
    once, twice = (criterion(output, labels, whole.model_copy(update=dict.fromkeys(terms, w))) for w in (1, 2))
    torch.testing.assert_close(torch.stack(twice), 2 * torch.stack(once))
    logits = F.interpolate(output.logits, size=(16, 16), mode="bilinear")
    assert float(once.cross_entropy) == pytest.approx(float(F.cross_entropy(logits, labels)))
    focal, dice, pairs = mask_loss(output.auxiliary_masks, labels[:, 2::4, 2::4])
    assert float(once.auxiliary) == pytest.approx(float((5 * focal + 2 * dice) / pairs))
    assert float(once.diversity) == pytest.approx(1 - float(output.diverse_peaks[0].sum()) / 4)


def random_output(batch: int) -> HeadOutput:
    logits, masks = torch.randn(2, batch, 3, 4, 4)
    return HeadOutput(logits, masks, (torch.randn(batch, 4, 2, 2),), torch.randn(batch, 3, 3))


def test_class_weights_weigh_the_mean() -> None:
    torch.manual_seed(0)
    output, labels, weights = random_output(2), torch.randint(0, 3, (2, 16, 16)), torch.tensor([1.0, 2.0, 4.0])
    labels[0, :5] = 255
    logits = F.interpolate(output.logits, size=(16, 16), mode="bilinear")
    expected = F.cross_entropy(logits, labels, weight=weights, ignore_index=255)
    assert float(criterion(output, labels, LossWeights(), weights).cross_entropy) == pytest.approx(float(expected))


def test_a_term_of_weight_zero_is_not_computed() -> None:
    output = HeadOutput(torch.randn(1, 3, 4, 4), torch.empty(0), (), torch.empty(0))
    weights = LossWeights(auxiliary=0, diversity=0, presence=0)
    losses = criterion(output, torch.zeros(1, 16, 16, dtype=torch.long), weights)
    assert losses.cross_entropy > 0
    assert losses.auxiliary == losses.diversity == losses.presence == 0


def test_a_batch_of_void_alone_has_no_loss_but_diversity() -> None:
    losses = criterion(random_output(1), torch.full((1, 16, 16), 255), LossWeights())
    assert losses.cross_entropy == losses.auxiliary == losses.presence == 0
    assert losses.diversity > 0


def test_the_mean_of_two_ranks_is_the_loss_of_all_their_images() -> None:
    torch.manual_seed(0)
    output, labels = random_output(2), torch.randint(0, 3, (2, 16, 16))
    labels[0, 3:] = 255  # one rank has few valid pixels and few classes
    labels[0, :3] = 1
    whole = criterion(output, labels, LossWeights(overlap=1))
    parts = [
        HeadOutput(
            output.logits[i : i + 1],
            output.auxiliary_masks[i : i + 1],
            (output.diverse[0][i : i + 1],),
            output.presence_logits[i : i + 1],
        )
        for i in range(2)
    ]
    counts: list[torch.Tensor] = []

    def note(value: torch.Tensor) -> torch.Tensor:
        counts.append(value)
        return value

    for part, label in zip(parts, labels, strict=True):
        criterion(part, label[None], LossWeights(overlap=1), mean_over_ranks=note)
    mean = torch.stack(counts).mean(0)
    ranks = [
        torch.stack(criterion(part, label[None], LossWeights(overlap=1), mean_over_ranks=lambda _: mean))
        for part, label in zip(parts, labels, strict=True)
    ]
    torch.testing.assert_close(torch.stack(ranks).mean(0), torch.stack(whole))


def test_rare_classes_weigh_more() -> None:
    weights = balanced_class_weights(torch.tensor([90.0, 10.0]))
    ratio = math.log(1.1 + 0.9) / math.log(1.1 + 0.1)
    assert float(weights[1] / weights[0]) == pytest.approx(ratio)
    assert float(weights.mean()) == pytest.approx(1)


def test_pixels_are_counted_per_class_without_void(tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "val")
    labels = np.concatenate([dataset[index].labels.ravel() for index in range(2)])
    assert class_pixels(dataset).tolist() == [(labels == index).sum() for index in range(11)]
