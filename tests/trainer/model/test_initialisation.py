"""The start of a new head: ghost steps that enlarge, and Feature Reconstruction on a stage's own directions."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.model.decode_head import DecodeHead, GhostUpsample
from trainer.model.ecenet import ECENet, build_model
from trainer.model.feature_reconstruction import FeatureReconstruction
from trainer.model.initialisation import (
    covariance_sums,
    principal_directions,
    stage_covariances,
    start_ghost_bilinear,
    start_reconstruction,
)

SIZES = [(6, 8), (7, 5), (5, 8), (12, 3)]
WIDTH = 8


@pytest.fixture
def head() -> DecodeHead:
    torch.manual_seed(0)
    head = DecodeHead(in_channels=(8, 8, 8, 8), num_classes=3, channels=WIDTH, num_heads=2)
    start_ghost_bilinear(head)
    return head.eval()


def steps_of(head: DecodeHead) -> list[list[Any]]:
    return [list(cast(nn.Sequential, branch)) for branch in head.upsample]


def shuffled(ghost: GhostUpsample, x: Tensor) -> Tensor:
    return F.pixel_shuffle(ghost.cheap[0](x), 2)


def inner(x: Tensor) -> Tensor:
    """Without the pixels to which the zeros around a feature reach."""
    return x[..., 1:-1, 1:-1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("branch", "step"), [(b, s) for b in range(3) for s in range(b + 1)])
def test_each_ghost_step_enlarges_bilinearly(branch: int, step: int, size: tuple[int, int], head: DecodeHead) -> None:
    ghost = steps_of(head)[branch][step]
    base = torch.randn(2, WIDTH // 2, *size)
    expected = F.interpolate(base, scale_factor=2, mode="bilinear", align_corners=False)
    actual = shuffled(ghost, base.repeat_interleave(4, 1))
    torch.testing.assert_close(inner(actual), inner(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_branch_of_ghost_steps_enlarges_its_first_channels(
    depth: int, size: tuple[int, int], head: DecodeHead
) -> None:
    """With norms that change nothing and inputs above the ReLUs: the mean of all ways, nearest or bilinear."""
    branch = copy.deepcopy(head.upsample[depth - 1])
    for module in branch.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_var").fill_(1 - module.eps)
            module.bias.data.zero_()
    steps: list[Any] = list(cast(nn.Sequential, branch))
    first = steps[0].primary[0].weight
    first.data.abs_()
    x = torch.rand(1, WIDTH, *size)
    expected = F.conv2d(x, first[::4])  # (1, C/2, h, w): four rows are equal
    for _ in range(depth):
        nearest = F.interpolate(expected, scale_factor=2, mode="nearest")
        bilinear = F.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
        halves, expected = (nearest, bilinear), (nearest + bilinear) / 2
    margin = 2**depth
    actual = branch(x)
    for half, wanted in zip(actual.chunk(2, 1), halves, strict=True):
        torch.testing.assert_close(
            half[..., margin:-margin, margin:-margin], wanted[..., margin:-margin, margin:-margin], atol=1e-5, rtol=1e-5
        )


def test_rows_that_make_one_channel_are_equal_and_the_first_are_random(head: DecodeHead) -> None:
    torch.manual_seed(0)
    wide = DecodeHead(in_channels=(8, 8, 8, 8), num_classes=3, channels=256, num_heads=2)
    start_ghost_bilinear(wide)
    for steps in steps_of(wide):
        for number, ghost in enumerate(steps):
            rows = ghost.primary[0].weight.detach().flatten(1).reshape(-1, 4, 256)
            assert (rows == rows[:, :1]).all()
            assert ghost.primary[1].bias.unique().tolist() == [min(number, 1)]
            assert ghost.cheap[1].bias.unique().tolist() == [1]
        first = steps[0].primary[0].weight
        assert float(first.detach().std()) == pytest.approx((2 / 256) ** 0.5, rel=0.03)
    assert not any(torch.equal(a[0].primary[0].weight, b[0].primary[0].weight) for a, b in pairwise(steps_of(wide)))


def test_little_variance_lies_inside_a_coarse_cell(head: DecodeHead) -> None:
    """The noise of random upsampling is gone: of a smooth feature, an enlarged cell holds nearly one value."""
    torch.manual_seed(1)
    fresh = DecodeHead(in_channels=(8, 8, 8, 8), num_classes=3, channels=WIDTH, num_heads=2)
    feature = F.interpolate(torch.randn(2, WIDTH, 3, 3), size=(16, 16), mode="bicubic")
    shares = []
    for network in (fresh, head):
        enlarged = network.train().upsample[2](feature).detach()
        means = F.interpolate(F.avg_pool2d(enlarged, 8), scale_factor=8, mode="nearest")
        shares.append(float((enlarged - means).square().mean() / enlarged.var()))
    assert shares[0] > 0.8
    assert shares[1] < 0.1


def test_the_first_directions_are_the_eigenvectors_of_the_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    parts = [
        torch.einsum("ij,bjhw->bihw", mixing, torch.randn(2, 6, 9, h, generator=generator).double()) + 5 for h in (7, 4)
    ]
    x = torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1)
    covariance = torch.cov(x, correction=0)
    values = torch.linalg.eigvalsh(covariance).flip(0)
    rows = principal_directions(sum(map(covariance_sums, parts), torch.zeros(7, 7)), 3)
    torch.testing.assert_close(rows @ rows.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(covariance @ rows.T, rows.T * values[:3], atol=1e-9, rtol=1e-9)


def test_reconstruction_starts_at_the_directions_and_keeps_its_gate() -> None:
    torch.manual_seed(0)
    module = FeatureReconstruction(8)
    gate = copy.deepcopy(module.gate.state_dict())
    feature = torch.randn(3, 8, 10, 10) * torch.arange(1.0, 9.0)[:, None, None]
    start_reconstruction(module, covariance_sums(feature), torch.Generator().manual_seed(3))
    rows = module.get_parameter("intrinsic.0.weight").flatten(1)
    expected = principal_directions(covariance_sums(feature), 4).float()
    torch.testing.assert_close(rows, expected)
    assert rows.abs().argmax(1).tolist() == [7, 6, 5, 4]  # the channels of the largest variance
    fuse = module.fuse.weight.flatten(1)
    torch.testing.assert_close(fuse @ fuse.T, torch.eye(8), atol=1e-5, rtol=0)
    assert all(torch.equal(value, gate[name]) for name, value in module.gate.state_dict().items())


@pytest.mark.parametrize("name", ["ecenet-lite0", "tiny swin"])
def test_covariances_are_those_of_the_training_features_and_leave_no_trace(name: str, tiny_model: ECENet) -> None:
    torch.manual_seed(0)
    backbone = (tiny_model if name == "tiny swin" else build_model(name, 3)).backbone
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    batches = [torch.randn(2, 3, 64, 64), torch.randn(1, 3, 64, 64)]
    sums = stage_covariances(backbone, batches)
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    with torch.no_grad():
        expected = [sum(map(covariance_sums, stage)) for stage in zip(*map(backbone, batches), strict=True)]
    assert [float(stage[-1, -1]) for stage in sums] == [3 * 16 * 16, 3 * 8 * 8, 3 * 4 * 4, 3 * 2 * 2]
    for actual, wanted in zip(sums, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-3)
