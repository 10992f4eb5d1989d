"""``ecenet-train import``: the released weights as a checkpoint of ours, every key accounted for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.tiny_network import TINY
from trainer.checkpoint import read_checkpoint, read_entries
from trainer.datasets import dataset_classes
from trainer.model.ecenet import ECENet
from trainer.weights.import_command import main
from trainer.weights.mindspore import checkpoint_message
from trainer.weights.network import load_model
from trainer.weights.released_keys import DERIVED
from trainer.weights.released_names import released_name

RELEASED = replace(TINY, num_classes=7, depths=(1, 1, 2, 1), window_size=2)
COLORS = [[index, 2, 3] for index in range(7)]
MINDSPORE_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


@pytest.fixture(scope="module")
def model() -> ECENet:
    torch.manual_seed(0)
    return ECENet(RELEASED).eval()


@pytest.fixture
def state(model: ECENet) -> dict[str, Tensor]:
    """The tiny network under the release's keys; patch merging's order is as it comes."""
    return {released_name(k): v.clone() for k, v in model.state_dict().items() if not k.endswith(DERIVED)}


def write_mindspore(path: Path, state: dict[str, Tensor], *, slice_rows: int = 0) -> Path:
    """Write a MindSpore checkpoint; tensors of more rows than ``slice_rows`` in several values."""
    message = checkpoint_message()()
    kinds = {torch.float32: "Float32", torch.float16: "Float16", torch.int32: "Int32", torch.int64: "Int64"}
    for name, tensor in state.items():
        for part in tensor.split(slice_rows) if slice_rows and tensor.ndim else [tensor]:
            value = message.value.add(tag=name)
            value.tensor.dims.extend(part.shape)
            value.tensor.tensor_type = kinds[part.dtype]
            value.tensor.tensor_content = part.contiguous().numpy().tobytes()
    path.write_bytes(message.SerializeToString())
    return path


def in_mindspore_style(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    norm = suffix.startswith("running") or any(part in name for part in ("norm", ".bn.", ".primary.1.", ".cheap.1."))
    return f"{stem}.{MINDSPORE_NORM[suffix]}" if norm else name


def imported(source: Path, output: Path, *options: str) -> dict[str, Tensor]:
    assert main([str(source), "-o", str(output), *options]) == 0
    weights: dict[str, Tensor] = read_checkpoint(output)["weights"]
    return weights


def counts(text: str) -> dict[str, int]:
    """The counts of the printed table."""
    rows = [line[:26].strip() for line in text.splitlines()]
    return {
        row: int(line[26:31])
        for row, line in zip(rows, text.splitlines(), strict=True)
        if line[26:31].strip().isdigit()
    }


def test_the_stored_checkpoint_becomes_one_that_agrees_with_the_authors(reference_dir: Path, tmp_path: Path) -> None:
    arrays = np.load(reference_dir / "ecenet_swin_tiny_scale.npz")
    imported(reference_dir / "ecenet_swin_tiny_scale.ckpt", tmp_path / "ours.pt")
    with torch.no_grad():
        logits = load_model(tmp_path / "ours.pt")(torch.from_numpy(arrays["input/image"]))
    assert float((logits - torch.from_numpy(arrays["output/logits"])).abs().max()) <= 1e-4
    entries = read_entries(tmp_path / "ours.pt")
    assert entries["architecture"] == "ecenet-swin"
    assert entries["input_size"] == [640, 640]
    assert entries["metrics"] == {}
    assert entries["imported_from"]["file"] == "ecenet_swin_tiny_scale.ckpt"
    assert "classes" not in entries  # no dataset has 7


def test_styles_wrappers_slices_and_bookkeeping_are_told_apart(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = imported(write_mindspore(tmp_path / "plain.ckpt", state), tmp_path / "plain.pt")
    head_styled = {in_mindspore_style(k) if k.startswith("decode_head") else k: v for k, v in state.items()}
    mixed = {f"network.{name}": tensor for name, tensor in head_styled.items()}
    besides = {
        "network.backbone.stages.0.blocks.0.attn.w_msa.relative_position_index": torch.zeros(4, 4, dtype=torch.int64),
        "network.backbone.stages.1.blocks.0.attn_mask": torch.zeros(1, 4, 4),
        "global_step": torch.tensor([7], dtype=torch.int32),
        "learning_rate": torch.tensor(0.1),
        "moment1.backbone.norm0.weight": torch.zeros(8),
        "epoch_num": torch.tensor(3, dtype=torch.int64),
    }
    capsys.readouterr()
    path = write_mindspore(tmp_path / "mixed.ckpt", mixed | besides, slice_rows=3)
    weights = imported(path, tmp_path / "mixed.pt")
    assert all(torch.equal(weights[name], tensor) for name, tensor in plain.items())
    text = capsys.readouterr().out
    restyled = len(set(head_styled) - set(state))
    assert restyled > 50
    assert counts(text) == {
        "keys read": len(state) + 6,
        "loaded": len(state),
        "MindSpore's norm names": restyled,
        "prefix removed": len(state),
        "derived buffers, ignored": 2,
        "bookkeeping, ignored": 4,
        "entries beside the keys": 0,
    }
    for name in besides:
        assert name in text


def test_half_precision_arrives_as_float(state: dict[str, Tensor], tmp_path: Path) -> None:
    source = write_mindspore(tmp_path / "half.ckpt", {name: tensor.half() for name, tensor in state.items()})
    weights = imported(source, tmp_path / "ours.pt")
    name = "decode_head.classifier.weight"
    assert weights[name].dtype == torch.float32
    assert torch.equal(weights[name], state["decode_head.conv_seg.weight"].half().float())


def test_keys_lists_each_weight_with_our_name(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(write_mindspore(tmp_path / "a.ckpt", state), tmp_path / "ours.pt", "--keys")
    text = capsys.readouterr().out
    assert text.count(" -> ") == len(state)
    assert "decode_head.conv_seg.bias -> decode_head.classifier.bias [7]" in text


def test_150_classes_are_those_of_ade20k(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ECENet(replace(RELEASED, num_classes=150))
    state = {released_name(k): v for k, v in model.state_dict().items() if not k.endswith(DERIVED)}
    torch.save({"state_dict": state}, tmp_path / "released.pth")
    imported(tmp_path / "released.pth", tmp_path / "ours.pt", "--size", "512x640")
    entries = read_entries(tmp_path / "ours.pt")
    assert entries["dataset"] == "ade20k"
    assert entries["input_size"] == [512, 640]
    expected = [{"id": c.id, "name": c.name, "color": list(c.color)} for c in dataset_classes("ade20k")]
    assert entries["classes"] == expected


def test_a_checkpoint_of_ours_keeps_what_it_says(model: ECENet, state: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps([{"name": f"c{i}", "color": c} for i, c in enumerate(COLORS)]))
    source = write_mindspore(tmp_path / "a.ckpt", state)
    first = imported(source, tmp_path / "a.pt", "--classes", str(tmp_path), "--size", "64x96")
    second = imported(tmp_path / "a.pt", tmp_path / "b.pt")
    assert all(torch.equal(first[name], second[name]) for name in first)
    entries = read_entries(tmp_path / "b.pt")
    assert entries["input_size"] == [64, 96]
    assert entries["classes"][3] == {"id": 3, "name": "c3", "color": [3, 2, 3]}


def test_wrong_keys_are_all_listed_by_their_names_in_the_file(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del state["backbone.norm2.weight"]
    state["decode_head.learner.0.weight"] = torch.zeros(16, 5, 1, 1)
    state["decode_head.spare.gamma"] = torch.zeros(1)
    source = write_mindspore(tmp_path / "a.ckpt", {f"network.{name}": tensor for name, tensor in state.items()})
    assert main([str(source), "-o", str(tmp_path / "ours.pt")]) == 1
    text = capsys.readouterr().err
    assert "missing: backbone.norm2.weight;" in text
    assert "extra: network.decode_head.spare.gamma;" in text
    assert "misshapen: network.decode_head.learner.0.weight (16, 5, 1, 1), expected (16, 4, 1, 1)" in text
    assert not (tmp_path / "ours.pt").exists()


def test_two_names_of_one_tensor_are_refused(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state["backbone.norm0.gamma"] = torch.zeros(8)
    assert main([str(write_mindspore(tmp_path / "a.ckpt", state)), "-o", str(tmp_path / "ours.pt")]) == 1
    assert "more than once: backbone.norm0.gamma, backbone.norm0.weight" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["backbone", "decode_head"])
def test_half_a_network_is_refused(
    part: str, state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = {name: tensor for name, tensor in state.items() if name.startswith(part)}
    assert main([str(write_mindspore(tmp_path / "a.ckpt", alone)), "-o", str(tmp_path / "ours.pt")]) == 1
    text = capsys.readouterr().err
    assert f"holds the {part.replace('_', ' ')} alone, {len(alone)} tensors" in text


def test_an_existing_file_is_not_overwritten(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ours.pt").write_text("precious")
    assert main([str(write_mindspore(tmp_path / "a.ckpt", state)), "-o", str(tmp_path / "ours.pt")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "ours.pt").read_text() == "precious"


def test_classes_of_another_number_are_refused(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_mindspore(tmp_path / "a.ckpt", state)
    assert main([str(source), "-o", str(tmp_path / "ours.pt"), "--dataset", "ade20k"]) == 1
    assert "ade20k has 150 classes, the weights have 7" in capsys.readouterr().err


def test_a_missing_or_foreign_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint at all")
    for name, reason in (("absent.ckpt", "does not exist"), ("text.ckpt", "neither a torch file nor a MindSpore")):
        assert main([str(tmp_path / name), "-o", str(tmp_path / "ours.pt")]) == 1
        text = capsys.readouterr().err
        assert name in text
        assert reason in text


@pytest.mark.parametrize("size", ["640", "0x640", "640x9000", "ax3"])
def test_sizes_out_of_range_are_refused(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["a.ckpt", "-o", str(tmp_path / "ours.pt"), "--size", size])
    assert "expected HEIGHTxWIDTH with sides within 32..8192" in capsys.readouterr().err


def test_weights_that_are_no_numbers_are_named(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "backbone.norm0.weight"
    state[name][3] = torch.nan
    assert main([str(write_mindspore(tmp_path / "a.ckpt", state)), "-o", str(tmp_path / "ours.pt")]) == 1
    assert f"has 1 tensors with NaN or infinity, expected numbers: {name}" in capsys.readouterr().err
    assert not (tmp_path / "ours.pt").exists()
