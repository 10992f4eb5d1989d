"""Agreement with the authors' own code, through ``load_model``: at most 1e-4 apart in float32, equal label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from trainer import load_model
from trainer.model.backbone import SwinBackbone
from trainer.model.decode_head import DecodeHead
from trainer.model.ecenet import ECENet, ModelConfig
from trainer.weights.released_keys import StateDictError, is_bookkeeping
from trainer.weights.released_names import released_name

TOLERANCE = 1e-4
MINDSPORE_SUFFIXES = {
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


class Case:
    """One file of reference arrays."""

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path)

    def state(self) -> dict[str, torch.Tensor]:
        return {k[6:]: torch.from_numpy(self._arrays[k]) for k in self._arrays.files if k.startswith("state/")}

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._arrays[name])

    def config(self, name: str) -> Any:
        return self._arrays[f"config/{name}"].tolist()


def saved(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "released.pt"
    torch.save(state, path)
    return path


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("name", ["head_even", "head_odd"])
@pytest.mark.parametrize("prefix", ["", "decode_head."])
def test_head_agrees(name: str, prefix: str, reference_dir: Path, tmp_path: Path) -> None:
    case = Case(reference_dir / f"{name}.npz")
    head = load_model(saved({prefix + k: v for k, v in case.state().items()}, tmp_path))
    assert isinstance(head, DecodeHead)
    assert not head.training
    features = [case[f"input/{stage}"] for stage in range(4)]
    with torch.no_grad():
        output = head.forward_auxiliary(features)
        assert_close(head(features), case["output/logits"])
    assert_close(output.logits, case["output/logits"])
    assert_close(output.auxiliary_masks, case["output/auxiliary_masks"])
    for stage, peaks in enumerate(output.diverse_peaks):
        assert_close(peaks, case[f"output/diverse_peaks/{stage}"])


def test_swin_alone_agrees(reference_dir: Path, tmp_path: Path) -> None:
    case = Case(reference_dir / "swin_small_windows.npz")
    backbone = load_model(saved(case.state(), tmp_path))
    assert isinstance(backbone, SwinBackbone)
    with torch.no_grad():
        features = backbone(case["input/image"])
    for stage, feature in enumerate(features):
        assert_close(feature, case[f"output/feature/{stage}"])


@pytest.mark.parametrize("kind", ["torch file", "MindSpore checkpoint", "nested state dict"])
def test_whole_network_agrees(kind: str, reference_dir: Path, tmp_path: Path) -> None:
    case = Case(reference_dir / "ecenet_swin_tiny_scale.npz")
    path = {
        "torch file": lambda: saved(case.state(), tmp_path),
        "nested state dict": lambda: saved({"state_dict": case.state()}, tmp_path),  # type: ignore[dict-item]
        "MindSpore checkpoint": lambda: reference_dir / "ecenet_swin_tiny_scale.ckpt",
    }[kind]()
    model = load_model(path)
    assert isinstance(model, ECENet)
    image = case["input/image"]
    with torch.no_grad():
        logits = model(image)
    assert_close(logits, case["output/logits"])
    labels = F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False).argmax(1)
    assert torch.equal(labels, case["output/label_map"].long())


def test_configuration_follows_from_the_shapes(reference_dir: Path, tmp_path: Path) -> None:
    case = Case(reference_dir / "ecenet_swin_tiny_scale.npz")
    config = load_model(saved(case.state(), tmp_path)).config
    assert isinstance(config, ModelConfig)
    assert (config.channels, config.num_classes) == (case.config("channels"), case.config("num_classes"))
    assert config.embed_dim == case.config("embed_dim")
    assert list(config.depths) == case.config("depths")
    assert list(config.swin_heads) == case.config("num_heads")
    assert config.window_size == case.config("window_size")


def test_another_configuration_survives_the_releases_names(tmp_path: Path) -> None:
    config = ModelConfig(
        backbone="swin",
        num_classes=150,
        channels=32,
        num_heads=8,
        embed_dim=12,
        depths=(2, 1, 3, 2),
        swin_heads=(2, 3, 6, 12),
        window_size=12,
        mlp_ratio=3.0,
    )
    torch.manual_seed(0)
    model = ECENet(config).eval()
    derived = ("num_batches_tracked", "relative_position_index")
    state = {released_name(k): v.clone() for k, v in model.state_dict().items() if not k.endswith(derived)}
    for name in [name for name in state if ".downsample." in name]:  # (kw, kh, channel) to (channel, kh, kw)
        state[name] = state[name].unflatten(-1, (2, 2, -1)).transpose(-3, -1).flatten(-3)
    loaded = load_model(saved(state, tmp_path))
    for name in (
        "num_classes",
        "channels",
        "num_heads",
        "embed_dim",
        "depths",
        "swin_heads",
        "window_size",
        "mlp_ratio",
    ):
        assert getattr(loaded.config, name) == getattr(config, name)
    image = torch.randn(1, 3, 101, 67)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))


def test_mindspore_names_of_norms_load_alike(reference_dir: Path, tmp_path: Path) -> None:
    case = Case(reference_dir / "head_odd.npz")
    state = case.state()
    norms = {k.rpartition(".")[0] for k in state if k.endswith("running_mean")} | {
        k.rpartition(".")[0] for k in state if "norm" in k
    }
    renamed = {}
    for name, tensor in state.items():
        stem, _, suffix = name.rpartition(".")
        style = MINDSPORE_SUFFIXES | ({"weight": "gamma", "bias": "beta"} if stem in norms else {})
        renamed[f"{stem}.{style.get(suffix, suffix)}"] = tensor
    assert set(renamed) != set(state)
    with torch.no_grad():
        logits = load_model(saved(renamed, tmp_path))([case[f"input/{stage}"] for stage in range(4)])
    assert_close(logits, case["output/logits"])


def test_missing_extra_and_misshapen_keys_are_all_listed(reference_dir: Path, tmp_path: Path) -> None:
    state = Case(reference_dir / "ecenet_swin_tiny_scale.npz").state()
    del state["decode_head.trans.bias"], state["backbone.norm2.weight"]
    state["decode_head.conv_seg.weight"] = torch.zeros(7, 3, 1, 1)
    state["decode_head.auxiliary.weight"] = torch.zeros(1)
    with pytest.raises(StateDictError) as error:
        load_model(saved(state, tmp_path))
    text = str(error.value)
    assert "missing: backbone.norm2.weight, decode_head.trans.bias;" in text
    assert "extra: decode_head.auxiliary.weight;" in text
    assert "misshapen: decode_head.conv_seg.weight (7, 3, 1, 1), expected (7, 16, 1, 1)" in text


@pytest.mark.parametrize("absent", ["decode_head.conv_seg.", "decode_head.learner.", "backbone.patch_embed."])
def test_any_absent_part_is_named(absent: str, reference_dir: Path, tmp_path: Path) -> None:
    state = Case(reference_dir / "ecenet_swin_tiny_scale.npz").state()
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(absent)}
    with pytest.raises(StateDictError, match=absent.replace(".", r"\.")):
        load_model(saved(kept, tmp_path))


def test_a_misshapen_tensor_that_tells_the_heads_is_listed(reference_dir: Path, tmp_path: Path) -> None:
    state = Case(reference_dir / "ecenet_swin_tiny_scale.npz").state()
    state["decode_head.learner.0.weight"] = torch.zeros(16, 5, 1, 1)
    with pytest.raises(StateDictError, match=r"misshapen: decode_head\.learner\.0\.weight \(16, 5, 1, 1\), expected"):
        load_model(saved(state, tmp_path))


def test_both_styles_of_one_tensor_are_refused(reference_dir: Path, tmp_path: Path) -> None:
    state = Case(reference_dir / "head_odd.npz").state()
    state["norms.0.gamma"] = state["norms.0.weight"]
    with pytest.raises(StateDictError, match=r"more than once: norms\.0\.gamma, norms\.0\.weight"):
        load_model(saved(state, tmp_path))


def test_a_wrapping_cell_and_the_trainings_bookkeeping_do_not_matter(reference_dir: Path, tmp_path: Path) -> None:
    state = Case(reference_dir / "ecenet_swin_tiny_scale.npz").state()
    wrapped = {f"train.network.{name}": tensor for name, tensor in state.items()}
    wrapped |= {"global_step": torch.tensor([1]), "moments.backbone.norm0.weight": torch.zeros(16)}
    plain = load_model(saved(state, tmp_path)).state_dict()
    loaded = load_model(saved(wrapped, tmp_path)).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in plain.items())


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("global_step", True),
        ("learning_rate_group_0", True),
        ("moment2.backbone.norm0.weight", True),
        ("beta1_power", True),
        ("decode_head.norms.0.weight", False),
        ("decode_head.moments.weight", False),
        ("backbone.norm0.beta", False),
        ("spare", False),
    ],
)
def test_bookkeeping_is_known_by_its_whole_name(name: str, is_one: bool) -> None:
    assert is_bookkeeping(name) is is_one
