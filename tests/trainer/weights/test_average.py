"""``ecenet-train average``: the mean of weights of one network, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.checkpoint import read_checkpoint, read_entries, save_checkpoint
from trainer.model.ecenet import ECENet
from trainer.weights.average import AverageError, average_weights, main
from trainer.weights.network import load_model

CLASSES = [{"id": index, "name": str(index), "color": [index, 0, 0]} for index in range(11)]


@pytest.fixture
def write(tiny_model: ECENet, tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny network, all its weights moved by a number, and other entries if wanted."""

    def make(name: str, shift: float = 0.0, **entries: Any) -> Path:
        weights = {
            key: value + shift if value.is_floating_point() else value + round(shift)
            for key, value in tiny_model.state_dict().items()
        }
        told = {"classes": CLASSES, "input_size": [64, 96], "metrics": {"val_miou": 0.5}, "training": {"step": 3}}
        save_checkpoint(tmp_path / name, tiny_model.config, weights, **told | entries)
        return tmp_path / name

    return make


def test_weights_and_statistics_are_the_mean_of_all(write: Callable[..., Path], tmp_path: Path) -> None:
    sources = [write("a.pt"), write("b.pt", 0.25), write("c.pt", 2.0)]
    average_weights(sources, tmp_path / "mean.pt")
    first, found = (read_checkpoint(path)["weights"] for path in (sources[0], tmp_path / "mean.pt"))
    assert found.keys() == first.keys()
    for name, value in found.items():
        assert value.dtype == first[name].dtype
        expected = first[name] + (0.75 if value.is_floating_point() else 2)  # of the counters the largest
        torch.testing.assert_close(value, expected, msg=name)
    assert isinstance(load_model(tmp_path / "mean.pt"), ECENet)


def test_entries_are_those_of_the_first_without_its_scores_and_its_training(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    average_weights([write("a.pt"), write("b.pt", dataset="other")], tmp_path / "mean.pt")
    entries = read_entries(tmp_path / "mean.pt")
    assert [source["file"] for source in entries.pop("averaged_from")] == ["a.pt", "b.pt"]
    assert entries == {"classes": CLASSES, "input_size": [64, 96], "metrics": {}, "terms": ""}
    assert "training" not in read_checkpoint(tmp_path / "mean.pt")


def test_terms_that_one_of_the_sources_has_are_those_of_the_mean(write: Callable[..., Path], tmp_path: Path) -> None:
    average_weights([write("a.pt", terms=""), write("b.pt", terms="research only")], tmp_path / "mean.pt")
    assert read_entries(tmp_path / "mean.pt")["terms"] == "research only"


@pytest.mark.parametrize(
    ("entries", "key"), [({"classes": CLASSES[::-1]}, "classes"), ({"input_size": [32, 32]}, "input_size")]
)
def test_checkpoints_that_differ_have_no_mean(
    entries: dict[str, Any], key: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(AverageError, match=rf"b\.pt has another {key} than .*a\.pt"):
        average_weights([write("a.pt"), write("b.pt", **entries)], tmp_path / "mean.pt")
    assert not (tmp_path / "mean.pt").exists()


def test_checkpoints_of_other_shapes_or_without_numbers_have_no_mean(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    first, other = write("a.pt"), write("b.pt")
    content = torch.load(other, weights_only=True)
    name, value = next(iter(content["weights"].items()))
    for changed, expected in ((value[:1], rf"b\.pt has {name} of shape"), (value * float("nan"), "are not finite")):
        torch.save(content | {"weights": content["weights"] | {name: changed}}, other)
        with pytest.raises(AverageError, match=expected):
            average_weights([first, other], tmp_path / "mean.pt")


def test_one_checkpoint_and_a_file_that_is_there_are_refused(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = str(write("a.pt")), str(write("b.pt", 1.0))
    assert main([one, "-o", "mean.pt"]) == 1
    assert "a mean needs two or more checkpoints, got 1" in capsys.readouterr().err
    before = Path(other).read_bytes()
    assert main([one, other, "-o", other]) == 1
    assert "b.pt exists already" in capsys.readouterr().err
    assert Path(other).read_bytes() == before


def test_command_writes_the_mean(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mean.pt"
    assert main([str(write("a.pt")), str(write("b.pt", 1.0)), "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: the mean of 2 checkpoints\n"
    assert path.exists()
