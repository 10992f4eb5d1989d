"""Our checkpoints: round trip, atomic writing, and files that are none."""

from __future__ import annotations

import pickle
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.checkpoint import CheckpointError, read_checkpoint, read_entries, save_checkpoint
from trainer.model import build_model
from trainer.weights.network import load_model
from trainer.weights.released_keys import StateDictError


def test_round_trip_gives_the_same_network_in_eval_mode(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("ecenet-lite0", 3).eval()
    path = tmp_path / "runs" / "model.pt"
    save_checkpoint(path, model.config, model.state_dict(), input_size=[64, 96])
    image = torch.randn(1, 3, 50, 70)
    loaded = load_model(path)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    assert not loaded.training
    assert read_entries(path) == {"input_size": [64, 96]}
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_changed_keys_are_listed(tmp_path: Path) -> None:
    model = build_model("ecenet-lite0", 3)
    state = model.state_dict()
    state["spare"] = state.pop("decode_head.classifier.bias")
    save_checkpoint(tmp_path / "model.pt", model.config, state)
    with pytest.raises(StateDictError, match=r"(?s)decode_head\.classifier\.bias.*spare"):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 broken", b"\x80\x02broken"])
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises((CheckpointError, StateDictError)):
        load_model(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pt does not exist"):
        load_model(tmp_path / "absent.pt")


def test_a_foreign_torch_file_is_no_training_checkpoint(tmp_path: Path) -> None:
    torch.save({"weights": {}}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="its format is None"):
        read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"config": None}, "does not tell its network"),
        ({"config": {"width": 3}}, "does not tell its network: 'config' is wrong"),
        ({"weights": [1]}, "holds no tensors in 'weights'"),
        ({"input_size": [-1, 3]}, r"has the input size \[-1, 3\], expected two numbers above 0"),
        ({"classes": [{"id": 0, "name": "sky"}]}, "expected id, name and color"),
        ({"classes": 5}, "has the classes 5, expected a list"),
    ],
)
def test_a_malformed_entry_is_named(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    path, model = tmp_path / "model.pt", build_model("ecenet-lite0", 3)
    save_checkpoint(path, model.config, model.state_dict())
    torch.save(torch.load(path, weights_only=True) | changes, path)
    for read in (read_checkpoint, load_model):
        with pytest.raises(CheckpointError, match=expected):
            read(path)


def test_a_configuration_that_makes_no_network_is_named(tmp_path: Path) -> None:
    path, model = tmp_path / "model.pt", build_model("ecenet-lite0", 3)
    save_checkpoint(path, replace(model.config, channels=-8), model.state_dict())
    with pytest.raises(CheckpointError, match="'config' makes no network"):
        load_model(path)


class Harmful:
    """An object whose unpickling would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("harm",)


def test_objects_in_a_pickle_are_named_without_advice_to_run_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weights": Harmful()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"(?i)print") as caught:
        read_checkpoint(tmp_path / "model.pt")
    assert "weights_only" not in str(caught.value)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CheckpointError, match=r"raw\.pt cannot be read: \S"):
        read_checkpoint(tmp_path / "raw.pt")
    assert capsys.readouterr().out == ""


def test_a_full_disk_is_reported_and_leaves_the_old_file(tmp_path: Path) -> None:
    model = build_model("ecenet-lite0", 3)
    path = tmp_path / "model.pt"
    save_checkpoint(path, model.config, model.state_dict(), epochs_done=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # a file of one MiB at most stands for the full disk
    try:
        with pytest.raises(
            CheckpointError, match=r"model\.pt cannot be written: .* bytes are free there\); the earlier file"
        ):
            save_checkpoint(path, model.config, model.state_dict(), epochs_done=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_entries(path) == {"epochs_done": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
