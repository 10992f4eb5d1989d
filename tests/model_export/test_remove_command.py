"""``ecenet-export remove``: the manifest and the files agree afterwards, and the default graph stays."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from model_export.__main__ import main
from service.model_directory.manifest import GRAPH_NAME, read_manifest, write_manifest


@pytest.fixture
def directory(tiny_model_dir: Path) -> Path:
    """Three graphs, alike but for their names."""
    manifest = read_manifest(tiny_model_dir)
    names = (GRAPH_NAME, "small.onnx", "small-int8.onnx")
    for name in names[1:]:
        shutil.copy(tiny_model_dir / GRAPH_NAME, tiny_model_dir / name)
    write_manifest(
        tiny_model_dir, replace(manifest, graphs=tuple(replace(manifest.graph, file=name) for name in names))
    )
    return tiny_model_dir


def test_a_graph_goes_with_its_file(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["remove", str(directory), "small.onnx"]) == 0
    assert [graph.file for graph in read_manifest(directory).graphs] == [GRAPH_NAME, "small-int8.onnx"]
    assert sorted(path.name for path in directory.glob("*.onnx")) == [GRAPH_NAME, "small-int8.onnx"]
    assert capsys.readouterr().out.startswith(f"{directory} has 32x64 fp32")


def test_a_graph_that_is_named_twice_goes_once(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["remove", str(directory), "small.onnx", "small.onnx"]) == 0
    assert sorted(path.name for path in directory.glob("*.onnx")) == [GRAPH_NAME, "small-int8.onnx"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (GRAPH_NAME, f"{GRAPH_NAME} is the default graph and stays"),
        ("other.onnx", f"brightness has no graph other.onnx; it has {GRAPH_NAME}, small.onnx, small-int8.onnx"),
    ],
)
def test_the_default_graph_stays_and_a_mistyped_name_changes_nothing(
    name: str, message: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["remove", str(directory), "small.onnx", name]) == 1
    assert capsys.readouterr().err == f"ecenet-export: {message}\n"
    assert len(read_manifest(directory).graphs) == 3
