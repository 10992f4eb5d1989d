"""Backbones: strides, and Swin's shifted windows against the definition."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch

from trainer.model import backbone as backbones
from trainer.model.backbone import ConvBackbone, SwinBackbone, fused_window_attention, shifted_window_mask


def test_stage_features_have_strides_4_to_32() -> None:
    backbone = ConvBackbone("tf_efficientnet_lite0").eval()
    with torch.no_grad():
        stages = backbone(torch.zeros(1, 3, 70, 101))
    assert [tuple(stage.shape[1:]) for stage in stages] == [(24, 18, 26), (40, 9, 13), (112, 5, 7), (320, 3, 4)]
    assert backbone.channels == (24, 40, 112, 320)


def test_a_backbone_of_other_strides_is_refused() -> None:
    with pytest.raises(ValueError, match="strides"):  # VGG has none of 4 in front
        ConvBackbone("vgg11")


def test_mask_parts_what_the_shift_brought_together() -> None:
    rows, columns, window, shift = 2, 3, 4, 2
    mask = shifted_window_mask(rows, columns, window, shift, torch.device("cpu"))
    assert mask.shape == (6, 16, 16)
    height, width = rows * window, columns * window
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.roll((-shift, -shift), (0, 1)), x.roll((-shift, -shift), (0, 1))  # where each token came from
    windows = [
        torch.stack([y, x], -1)[r * window : (r + 1) * window, c * window : (c + 1) * window].reshape(-1, 2)
        for r in range(rows)
        for c in range(columns)
    ]
    for index, origin in enumerate(windows):
        near = (origin[:, None] - origin[None]).abs().amax(-1) < window
        assert torch.equal(mask[index] == 0, near)


@pytest.mark.parametrize("size", [(64, 96), (72, 90)])
def test_fused_window_attention_is_the_same_function(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = SwinBackbone(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4), window_size=4).eval()
    for name, value in backbone.named_parameters():
        if "relative_position_bias_table" in name:  # zero at the start, and then no bias would be missed
            torch.nn.init.normal_(value)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = backbone(image)
        with fused_window_attention(backbone):
            fused = backbone(image)
        after = backbone(image)
    for stage in range(4):
        assert torch.allclose(fused[stage], expected[stage], atol=1e-5)
        assert torch.equal(after[stage], expected[stage])


def small_swin() -> SwinBackbone:
    torch.manual_seed(0)
    return SwinBackbone(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4), window_size=4).eval()


def test_fused_window_attention_runs_where_the_image_is() -> None:
    """On the device ``meta``, which mixes with no other; TIMM_FUSED_ATTN=2 asks for the fused form everywhere."""
    backbone = small_swin().to("meta")
    image = torch.zeros(1, 3, 72, 90, device="meta")
    with torch.no_grad(), fused_window_attention(backbone):
        stages = backbone(image)
    assert [(stage.device.type, tuple(stage.shape[2:])) for stage in stages] == [
        ("meta", (18, 23)),
        ("meta", (9, 12)),
        ("meta", (5, 6)),
        ("meta", (3, 3)),
    ]


def test_masks_are_built_once_per_size_on_the_device_and_in_the_type_of_the_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[tuple[int, int, str]] = []

    def counted(rows: int, columns: int, window_size: int, shift: int, device: torch.device) -> torch.Tensor:
        built.append((rows, columns, device.type))
        return shifted_window_mask(rows, columns, window_size, shift, device)

    monkeypatch.setattr(backbones, "shifted_window_mask", counted)
    backbone, images = small_swin(), [torch.randn(1, 3, *size) for size in ((128, 160), (160, 128))]
    with torch.no_grad():
        first = [backbone(image) for image in images]
        wide = [(8, 10), (4, 5), (2, 3), (1, 2)]
        assert built == [(*windows, "cpu") for windows in (*wide, *(size[::-1] for size in wide))]
        built.clear()
        again = [backbone(image) for image in images]
        assert built == []
        backbone.double()(images[0].double())
    assert len(built) == 4
    for stages, expected in zip(again, first, strict=True):
        assert all(torch.equal(*pair) for pair in zip(stages, expected, strict=True))


def test_masks_of_evaluation_do_for_training_and_are_no_part_of_the_state() -> None:
    backbone, image = small_swin(), torch.randn(1, 3, 128, 160)
    names = list(backbone.state_dict())
    with torch.inference_mode():
        backbone(image)
    for fused in (False, True):
        with fused_window_attention(backbone) if fused else nullcontext():
            sum(stage.sum() for stage in backbone.train()(image)).backward()
    assert list(backbone.state_dict()) == names
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in backbone.parameters())
    assert torch.equal(copy.deepcopy(backbone.eval())(image)[3], backbone(image)[3])


def test_an_export_leaves_no_traced_mask_behind() -> None:
    backbone, image = small_swin(), torch.randn(1, 3, 64, 96)
    with torch.no_grad(), fused_window_attention(backbone):
        exported = torch.export.export(backbone, (image,), strict=False).module()
        for stage, expected in zip(exported(image), backbone(image), strict=True):
            torch.testing.assert_close(stage, expected, rtol=1e-5, atol=1e-5)
