"""New versions of real model directories that are broken in one way or the other, beside one that serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from service.http.app import create_app
from service.model_directory.golden import make_golden, write_golden
from service.model_directory.manifest import (
    GRAPH_NAME,
    MANIFEST_NAME,
    FileInfo,
    file_sha256,
    read_manifest,
    write_manifest,
)
from service.settings import Settings
from tests.support.api import Running
from tests.support.brightness_model import Infer, WriteModel
from tests.support.pictures import Png
from tests.support.shelf import rescan

pytestmark = pytest.mark.anyio

KEY = "0123456789abcdef"


@pytest.fixture
def spoilers(brightness_logits: Infer) -> dict[str, Callable[[Path], object]]:
    """Ways to break a model directory."""

    def cut_manifest(directory: Path) -> None:
        path = directory / MANIFEST_NAME
        path.write_text(path.read_text()[:100])

    def change_graph(directory: Path) -> None:
        (directory / GRAPH_NAME).write_bytes(b"another")

    def replace_graph(directory: Path) -> None:
        change_graph(directory)
        manifest = json.loads((directory / MANIFEST_NAME).read_text())
        manifest["graphs"][0]["sha256"] = file_sha256(directory / GRAPH_NAME)
        (directory / MANIFEST_NAME).write_text(json.dumps(manifest))

    def disagree(directory: Path) -> None:
        images = np.zeros((1, 32, 64, 3), np.uint8)
        golden = make_golden(images, brightness_logits(images) + np.float32(1), {})
        write_golden(directory / "golden.npz", {(32, 64): golden})
        info = FileInfo("golden.npz", file_sha256(directory / "golden.npz"))
        write_manifest(directory, replace(read_manifest(directory), golden=info))

    return {"manifest": cut_manifest, "hash": change_graph, "graph": replace_graph, "golden": disagree}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("manifest", "manifest.json cannot be read"),
        ("hash", "model.onnx has SHA-256"),
        ("graph", "onnxruntime cannot load"),
        ("golden", "differs from PyTorch on the golden inputs"),
    ],
)
async def test_a_broken_version_leaves_the_old_one_serving_and_says_why(
    *,
    tmp_path: Path,
    write_model: WriteModel,
    spoilers: dict[str, Callable[[Path], object]],
    running: Running,
    png: Png,
    kind: str,
    words: str,
) -> None:
    write_model(tmp_path / "brightness" / "1.0.0", version="1.0.0")
    settings = Settings(model_dir=tmp_path, engine="onnxruntime", codec_threads=1, api_keys=SecretStr(f"ops:{KEY}"))
    async with running(create_app(settings)) as api:
        api.http.headers["X-API-Key"] = KEY
        first = (await api.post(png())).content
        spoilers[kind](write_model(tmp_path / "brightness" / "2.0.0", version="2.0.0"))
        response = await api.http.post(
            "/v2/repository/models/brightness/load", json={"parameters": {"version": "2.0.0"}}
        )
        assert response.status_code == 500
        assert words in response.json()["error"]
        assert await api.metric('ecenet_model_loads_total{model="brightness",result="failure"}') == 1
        assert "1 failed (brightness 2.0.0), 1 unchanged" in await rescan(api)
        index = (await api.http.post("/v2/repository/index")).json()
        assert [(entry["version"], entry["state"]) for entry in index] == [("2.0.0", "UNAVAILABLE"), ("1.0.0", "READY")]
        assert words in index[0]["reason"]
        again = await api.post(png())
        assert (again.content, again.headers["x-model-version"]) == (first, "1.0.0")
        assert (await api.get("/readyz")).status_code == 200
