"""An engine proves itself on the directory's golden inputs before the service says that it is ready."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.base import Engine, EngineError, Rows
from service.engines.create import create_engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.engines.options import EngineOptions
from service.engines.proof import prove_engine
from service.errors import NotReady
from service.http.app import create_app
from service.model_directory.golden import make_golden, write_golden
from service.model_directory.manifest import MANIFEST_NAME, FileInfo, file_sha256, read_manifest, write_manifest
from service.settings import Settings
from tests.support.brightness_model import Infer


def add_golden(directory: Path, logits: Infer, shift: float = 0.0) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), np.uint8)
    write_golden(directory / "golden.npz", {(32, 64): make_golden(images, logits(images) + np.float32(shift), {})})
    golden = FileInfo("golden.npz", file_sha256(directory / "golden.npz"))
    write_manifest(directory, replace(read_manifest(directory), golden=golden))


def prove(directory: Path) -> None:
    manifest = read_manifest(directory)
    engine = create_engine(directory, manifest, EngineOptions(max_batch_size=4))
    prove_engine(engine, directory, manifest)


def test_agreement_is_logged_for_each_warm_up_size(
    tiny_model_dir: Path, brightness_logits: Infer, caplog: pytest.LogCaptureFixture
) -> None:
    add_golden(tiny_model_dir, brightness_logits)
    with caplog.at_level(logging.INFO, "service.engines.proof"):
        prove(tiny_model_dir)
    lines = [record.getMessage() for record in caplog.records if record.name == "service.engines.proof"]
    assert [line.split(",")[0] for line in lines] == [f"self-check: onnxruntime at batch {size}" for size in (1, 4)]
    assert all("equal labels 100.000%" in line for line in lines)


def test_a_stream_that_differs_beside_others_is_told(
    tiny_model_dir: Path, brightness_logits: Infer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_golden(tiny_model_dir, brightness_logits)
    manifest = read_manifest(tiny_model_dir)
    engine = create_engine(tiny_model_dir, manifest, EngineOptions(num_threads=2, num_streams=2))
    assert list(prove_engine(engine, tiny_model_dir, manifest)) == [2]  # all streams at once, whatever they took
    real = engine.infer

    def infer(images: NDArray[np.uint8]) -> Rows:
        """Right for a run alone; wrong for the second of two."""
        return real(images) * np.array([1, -1], np.float32)[: len(images), None, None, None]

    monkeypatch.setattr(engine, "infer", infer)
    with pytest.raises(EngineError, match="at batch 2 differs from PyTorch"):
        prove_engine(engine, tiny_model_dir, manifest)


@pytest.mark.parametrize(("name", "runs"), [("onnxruntime", 1), ("tensorrt", 3), ("tensorrt-rtx", 3)])
def test_graphs_of_a_gpu_are_replayed(
    name: str, runs: int, tiny_model_dir: Path, brightness_logits: Infer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_golden(tiny_model_dir, brightness_logits)
    manifest = read_manifest(tiny_model_dir)
    engine = create_engine(tiny_model_dir, manifest, EngineOptions(max_batch_size=1))
    sizes: list[int] = []
    monkeypatch.setattr(engine, "name", name)

    def counted(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(images))
        return brightness_logits(images)

    monkeypatch.setattr(engine, "infer", counted)
    prove_engine(engine, tiny_model_dir, manifest)
    assert sizes == [1] * runs


def test_other_outputs_than_pytorchs_are_an_error(tiny_model_dir: Path, brightness_logits: Infer) -> None:
    add_golden(tiny_model_dir, brightness_logits, shift=1.0)
    with pytest.raises(
        EngineError, match=r"at batch 1 differs from PyTorch .* 1\.00e\+00 .*; --engine and --precision choose"
    ):
        prove(tiny_model_dir)


def test_golden_inputs_of_another_size_are_an_error(tiny_model_dir: Path, brightness_logits: Infer) -> None:
    add_golden(tiny_model_dir, brightness_logits)
    arrays = dict(np.load(tiny_model_dir / "golden.npz"))
    np.savez(tiny_model_dir / "golden.npz", **{name.replace("32x64", "64x64"): a for name, a in arrays.items()})
    golden = FileInfo("golden.npz", file_sha256(tiny_model_dir / "golden.npz"))
    manifest = json.loads((tiny_model_dir / MANIFEST_NAME).read_text())
    (tiny_model_dir / MANIFEST_NAME).write_text(json.dumps(manifest | {"golden": asdict(golden)}))
    with pytest.raises(EngineError, match=r"no golden inputs of 32x64.*; export the checkpoint again"):
        prove(tiny_model_dir)


def test_a_directory_without_golden_inputs_is_tried_out_and_the_log_says_so(
    tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prove(tiny_model_dir)
    assert "no golden inputs: the engine is warmed up, but not compared with PyTorch" in caplog.text


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_service_is_ready_only_after_the_proof(
    shift: float, tiny_model_dir: Path, brightness_logits: Infer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_golden(tiny_model_dir, brightness_logits, shift)
    closed: list[Engine] = []
    close = OnnxRuntimeEngine.close

    def noted_close(engine: OnnxRuntimeEngine) -> None:
        closed.append(engine)
        close(engine)

    monkeypatch.setattr(OnnxRuntimeEngine, "close", noted_close)

    async def start() -> None:
        app = create_app(Settings(model_dir=tiny_model_dir))
        async with app.router.lifespan_context(app):
            await app.state.runtime.started.wait()
            app.state.runtime.check_ready()

    if shift:
        with pytest.raises(NotReady, match="differs from PyTorch on the golden inputs"):
            asyncio.run(start())
        assert len(closed) == 1
    else:
        asyncio.run(start())
