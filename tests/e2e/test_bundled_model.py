"""The bundled model behind the HTTP interface: a picture one believes, without PyTorch, as the README shows it."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from model_export.__main__ import main as export
from service.engines.choice import smallest_size
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.http.app import create_app
from service.imaging.label_map import label_map
from service.imaging.resize import resize_to_input
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.golden import read_golden
from service.model_directory.manifest import GRAPH_NAME, read_manifest
from service.settings import Settings
from trainer.datasets import CAMVID_CLASSES
from trainer.evaluate import main as evaluate

EXAMPLE = Path(__file__).parents[2] / "models" / "example"
STREET = (EXAMPLE / "street.jpg").read_bytes()


@pytest.fixture(scope="module")
def segment() -> Callable[[str], httpx.Response]:
    """Answers of the bundled model for the street, by format, from one app."""
    formats = ("labels", "color", "overlay", "json")

    async def ask() -> dict[str, httpx.Response]:
        app = create_app(Settings())
        async with app.router.lifespan_context(app):
            await app.state.runtime.started.wait()
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                headers = {"content-type": "image/jpeg"}
                return {
                    name: await client.post("/segment", params={"format": name}, content=STREET, headers=headers)
                    for name in formats
                }

    return asyncio.run(ask()).__getitem__


def picture(data: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def test_a_street_is_road_under_sky(segment: Callable[[str], httpx.Response]) -> None:
    labels = picture(segment("labels").content)
    assert labels.shape == (720, 960)
    names = [info.name for info in CAMVID_CLASSES]
    sky, road = (labels == names.index(name) for name in ("Sky", "Road"))
    assert 0.2 < sky.mean() < 0.45
    assert 0.25 < road.mean() < 0.6
    assert np.nonzero(sky)[0].mean() < 240  # rows
    assert np.nonzero(road)[0].mean() > 480


def test_json_counts_the_pixels_of_the_label_map(segment: Callable[[str], httpx.Response]) -> None:
    labels = picture(segment("labels").content)
    body = segment("json").json()
    counts = np.bincount(labels.ravel(), minlength=11).tolist()
    assert [entry["pixels"] for entry in body["classes"]] == counts
    assert [entry["name"] for entry in body["classes"]] == [info.name for info in CAMVID_CLASSES]
    assert sum(entry["share"] for entry in body["classes"]) == pytest.approx(1)


@pytest.mark.parametrize("name", ["color", "overlay"])
def test_the_readmes_pictures_are_the_bundled_models_answers(
    name: str, segment: Callable[[str], httpx.Response]
) -> None:
    shown = picture((EXAMPLE / f"{name}.png").read_bytes())
    answered = picture(segment(name).content)
    assert shown.shape == answered.shape == (720, 960, 3)
    assert (shown == answered).all(-1).mean() > 0.995  # processors differ in the last bits of the logits


def test_a_row_of_a_batch_equals_the_single_call() -> None:
    directory = bundled_model_dir()
    manifest = read_manifest(directory)
    engine = OnnxRuntimeEngine(directory, manifest, manifest.graph, num_threads=2)
    street = resize_to_input(picture(STREET), manifest.graph.input_size)
    images = [street, np.ascontiguousarray(street[:, ::-1]), np.zeros_like(street)]
    batched = engine.infer(np.stack(images))
    single = np.concatenate([engine.infer(image[None]) for image in images])
    assert np.abs(batched - single).max() <= 1e-4
    for together, alone in zip(batched, single, strict=True):
        assert np.array_equal(label_map(together, (720, 960)), label_map(alone, (720, 960)))


def test_the_bundled_model_is_small_and_complete() -> None:
    directory = bundled_model_dir()
    manifest = read_manifest(directory)
    assert manifest.classes == CAMVID_CLASSES
    assert (directory / GRAPH_NAME).stat().st_size <= 20e6
    assert manifest.metrics["val_miou"] >= 0.70
    assert "research" in manifest.license
    card = (directory / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{100 * manifest.metrics['val_miou']:.2f}" in card


def test_the_bundled_model_has_a_smaller_input_for_speed() -> None:
    """Less than half of the pixels, in INT8, with golden inputs; its loss is in the model card."""
    directory = bundled_model_dir()
    manifest = read_manifest(directory)
    (graph,) = [graph for graph in manifest.graphs if graph.input_size == smallest_size(manifest)]
    assert (graph.input_size, graph.precision) == ((384, 512), "int8")
    assert read_golden(directory, manifest, graph.input_size).images.shape[1:] == (384, 512, 3)
    assert (directory / graph.file).stat().st_size <= 6e6
    assert "`ecenet-serve --speed` serves the graph of 512x384 in INT8" in (directory / "MODEL_CARD.md").read_text()


def test_serving_needs_no_pytorch() -> None:
    code = (
        "import sys, service.http.app, service.engines.onnxruntime_engine; "
        "print([name for name in ('torch', 'timm', 'onnx', 'trainer') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def scores(data: Path, folder: Path) -> dict[str, float]:
    """The bundled model's scores in percent on the val images of a folder."""
    assert evaluate([str(bundled_model_dir()), "--data", str(data), "--json", str(folder / "scores.json")]) == 0
    written = json.loads((folder / "scores.json").read_text())
    return {name: 100 * written[key] for name, key in (("mIoU", "miou"), ("aAcc", "accuracy"))}


def test_eight_images_have_the_accuracy_that_was_measured_on_them(camvid_dir: Path, tmp_path: Path) -> None:
    """Every tenth val image, measured with ONNX Runtime in float32."""
    names = sorted(path.name for path in (camvid_dir / "val").iterdir())[:80:10]
    for folder in ("val", "valannot"):
        (tmp_path / "part" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "part" / folder / name).symlink_to(camvid_dir / folder / name)
    assert scores(tmp_path / "part", tmp_path) == pytest.approx({"mIoU": 79.80, "aAcc": 95.37}, abs=0.05)


@pytest.mark.slow
def test_the_stated_accuracy_is_the_measured_one(camvid_dir: Path, tmp_path: Path) -> None:
    stated = read_manifest(bundled_model_dir()).metrics
    expected = {"mIoU": 100 * stated["val_miou"], "aAcc": 100 * stated["val_accuracy"]}
    assert scores(camvid_dir, tmp_path) == pytest.approx(expected, abs=0.05)


def test_all_precisions_keep_the_accuracy(camvid_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command that users run, against PyTorch with the checkpoint beside the graphs."""
    options = ["--data", str(camvid_dir), "--count", "3", "--runtime", "onnxruntime"]
    assert export(["verify", str(bundled_model_dir()), *options]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("onnxruntime ")]
    assert [row[3] for row in rows] == ["fp32", "fp16", "int8", "int8"]  # the last is smaller, for --speed
    assert float(rows[0][6].rstrip("%")) >= 99.9
    assert all(float(row[8]) <= 0.1 for row in rows[:2])
    assert all(float(row[8]) <= 0.5 for row in rows[2:])
    assert [row[-1] for row in rows] == ["ok"] * 4
