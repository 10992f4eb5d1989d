"""Compiled graphs of the CPU runtimes: kept for the next start, made again where they are damaged."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines import kept_graphs
from service.engines.create import create_engine
from service.engines.kept_graphs import KeptGraph
from service.engines.options import EngineOptions
from service.engines.runtimes import CPU_RUNTIMES
from service.model_directory.manifest import GraphInfo, Manifest, read_manifest

Infer = Callable[[], NDArray[np.generic]]
RUNTIMES = sorted(CPU_RUNTIMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "graphs"


@pytest.fixture(params=RUNTIMES)
def load_and_infer(request: pytest.FixtureRequest, tiny_model_dir: Path, folder: Path) -> Infer:
    """Loads the tiny model with the folder of compiled graphs, and gives the rows of two streams."""
    manifest = read_manifest(tiny_model_dir)
    options = EngineOptions(engine=request.param, num_threads=2, num_streams=2, cache_dir=folder.parent)
    images = np.random.default_rng(7).integers(0, 256, (2, *manifest.graph.input_size, 3), np.uint8)
    return lambda: create_engine(tiny_model_dir, manifest, options).infer(images)


def test_the_next_start_reads_the_kept_graph_in_place_of_the_model(
    load_and_infer: Infer, folder: Path, tiny_model_dir: Path, manifest: Manifest
) -> None:
    expected = load_and_infer()
    assert len(list(folder.iterdir())) == 1
    (tiny_model_dir / manifest.graph.file).write_bytes(b"no graph")
    np.testing.assert_array_equal(load_and_infer(), expected)


@pytest.mark.parametrize("damage", ["empty", "short", "changed", "foreign"])
def test_a_damaged_graph_is_compiled_again(
    damage: str, load_and_infer: Infer, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load_and_infer()
    (kept,) = folder.iterdir()
    good = kept.read_bytes()
    foreign = hashlib.sha256(b"no graph").digest() + b"no graph"
    changed = good[:-1] + bytes((good[-1] ^ 1,))
    broken = {"empty": b"", "short": good[: len(good) // 2], "changed": changed, "foreign": foreign}[damage]
    kept.write_bytes(broken)
    np.testing.assert_array_equal(load_and_infer(), expected)
    assert f"{kept} cannot be used, so the graph is compiled again: " in caplog.text
    assert kept.read_bytes() != broken
    caplog.clear()
    np.testing.assert_array_equal(load_and_infer(), expected)
    assert not caplog.text


def test_a_full_disk_costs_the_next_start_alone(
    load_and_infer: Infer, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kept_graphs, "write_whole", refuse)
        rows = load_and_infer()
    assert "cannot be kept, so the next start compiles again: [Errno 28] No space left on device" in caplog.text
    assert not list(folder.iterdir())
    np.testing.assert_array_equal(load_and_infer(), rows)
    assert len(list(folder.iterdir())) == 1


def test_a_read_only_folder_is_read_and_not_written(
    load_and_infer: Infer, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != folder.parent)
    folder.parent.mkdir()
    expected = load_and_infer()
    assert not folder.exists()
    monkeypatch.undo()
    load_and_infer()
    (kept,) = folder.iterdir()
    monkeypatch.setattr(os, "access", lambda path, _: path != folder)
    np.testing.assert_array_equal(load_and_infer(), expected)
    damaged = kept.read_bytes()[:-1]
    kept.write_bytes(damaged)
    np.testing.assert_array_equal(load_and_infer(), expected)
    assert kept.read_bytes() == damaged
    assert "it is damaged" in caplog.text


def test_a_temporary_folder_that_is_missing_costs_the_next_start_alone(
    tiny_model_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tiny_model_dir / "missing"))
    manifest = read_manifest(tiny_model_dir)
    options = EngineOptions(engine="onnxruntime", num_threads=1, cache_dir=folder.parent)
    rows = create_engine(tiny_model_dir, manifest, options).infer(np.zeros((1, *manifest.graph.input_size, 3), "u1"))
    assert rows.shape == manifest.graph.output_shape(1, manifest.num_classes)
    assert "so the next start optimises again: [Errno 2]" in caplog.text


def test_each_graph_runtime_version_and_processor_has_its_own_file(
    manifest: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def path(runtime: str = "openvino", version: str = "1.0", **changes: str) -> Path:
        graph: GraphInfo = replace(manifest.graph, **changes)  # type: ignore[arg-type]  # names of two text fields
        return KeptGraph(folder, graph, runtime, version).path

    paths = [path(), path("onnxruntime"), path(version="1.1"), path(sha256="1" * 64), path(precision="bf16")]
    monkeypatch.setattr(kept_graphs, "processor", lambda: "another")
    assert len({*paths, path()}) == 6


def test_the_oldest_graphs_make_room_for_a_new_one(
    manifest: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_graphs, "_MAX_FOLDER_BYTES", 400)
    first, second, third, huge = (KeptGraph(folder, manifest.graph, "openvino", version) for version in "1234")
    for age, graph in ((30, first), (20, second)):
        graph.write(bytes(100))
        os.utime(graph.path, (1e9 - age, 1e9 - age))
    assert first.read() == bytes(100)  # and is the newest by that
    third.write(bytes(150))
    assert {graph.path.exists() for graph in (first, third)} == {True}
    assert second.read() is None
    huge.write(bytes(401))
    assert sorted(folder.iterdir()) == sorted((first.path, third.path))
