"""``ecenet-evaluate``: one ruler over all kinds of models, its table and files, and its refusals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.model_directory.manifest import GRAPH_NAME, ClassInfo, read_manifest, write_manifest
from trainer.checkpoint import save_checkpoint
from trainer.datasets import open_dataset
from trainer.datasets.mapped import NAMED_MAPS
from trainer.evaluate import main
from trainer.metrics import Counts
from trainer.model.ecenet import ECENet
from trainer.prediction.evaluation import evaluate
from trainer.prediction.predictor import Network, network_predictor
from trainer.scoring import as_dict, report

ROOT = Path(__file__).resolve().parents[2]
Logits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def greys(tmp_path: Path) -> Path:
    """Three images of odd sizes with the classes of the brightness model, partly wrong, as a ``folder`` dataset."""
    root = tmp_path / "greys"
    rng = np.random.default_rng(0)
    names = [{"name": name, "color": [10 * index, 0, 0]} for index, name in enumerate(("dark", "grey", "bright"))]
    for index, size in enumerate(((40, 90), (33, 51), (64, 128))):
        image = rng.integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8)), np.uint8).repeat(8, 0).repeat(8, 1)
        image = image[: size[0], : size[1]]
        labels = np.where(rng.random(size) < 0.1, 255, np.digitize(image, [50, 200])).astype(np.uint8)
        for folder, array in (("images", np.repeat(image[..., None], 3, 2)), ("labels", labels)):
            path = root / folder / "val" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (root / "classes.json").write_text(json.dumps({"classes": names}))
    return root


@pytest.fixture
def run(greys: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command on the greys; gives its status and what it printed."""

    def call(model: Path | str, *arguments: str) -> tuple[int, str, str]:
        status = main([str(model), "--data", str(greys), *arguments])
        return status, *capsys.readouterr()

    return call


@contextmanager
def serving(model_dir: Path) -> Iterator[str]:
    """The URL of the real service."""
    command = [sys.executable, "-m", "service", "--port", "0", "--model-dir", str(model_dir), "--log-level", "error"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as popen:
        try:
            assert popen.stdout is not None
            yield popen.stdout.readline().rstrip().rpartition(" ")[2]
        finally:
            popen.kill()


def test_service_directory_graph_and_predictor_give_the_same_figures(
    run: Run, greys: Path, tiny_model_dir: Path, brightness_logits: Logits, tmp_path: Path
) -> None:
    dataset = open_dataset("folder", greys, "val")
    scores = evaluate(network_predictor(Network(brightness_logits, (32, 64))), dataset, boundary=True).scores()
    expected = as_dict(scores, dataset.classes)
    assert 0.3 < expected["miou"] < 0.95
    with serving(tiny_model_dir) as url:
        for model in (url, tiny_model_dir, tiny_model_dir / GRAPH_NAME):
            status, table, errors = run(model, "--boundary", "--json", str(tmp_path / "scores.json"))
            assert status == 0, errors
            figures = json.loads((tmp_path / "scores.json").read_text())
            assert {key: figures[key] for key in expected} == expected
            assert (figures["model"], figures["images"], figures["split"]) == (str(model), 3, "val")
            assert table.startswith(report(scores, dataset.classes) + "\n3 images of folder val in ")


def test_an_unreachable_service_is_told_in_one_line(run: Run) -> None:
    status, _, errors = run("http://127.0.0.1:1")
    assert status == 1
    assert re.fullmatch(r"ecenet-evaluate: http://127\.0\.0\.1:1/segment cannot be reached: .*\n", errors)


def test_modes_reach_the_network(run: Run, tiny_model: ECENet, greys: Path, tmp_path: Path) -> None:
    model = ECENet(replace(tiny_model.config, num_classes=3))
    classes = [{"id": index, "name": name, "color": [0, 0, 0]} for index, name in enumerate(("dark", "grey", "bright"))]
    save_checkpoint(tmp_path / "best.pt", model.config, model.state_dict(), classes=classes, input_size=[32, 64])
    slide = [
        "--mode",
        "slide",
        "--crop",
        "24x32",
        "--stride",
        "20",
        "--short-side",
        "30",
        "--scales",
        "0.5,1",
        "--flip",
    ]
    seen = []
    for arguments in ([], slide):
        status, _, errors = run(tmp_path / "best.pt", *arguments, "--json", str(tmp_path / "new" / "scores.json"))
        assert status == 0, errors
        seen.append(json.loads((tmp_path / "new" / "scores.json").read_text()))
    assert seen[0]["accuracy"] != seen[1]["accuracy"]
    assert seen[1]["mode"] == {
        "mode": "slide",
        "crop": [24, 32],
        "stride": [20, 20],
        "short_side": 30,
        "scales": [0.5, 1.0],
        "flip": True,
    }


def test_a_graph_slides_by_its_input_size_only(run: Run, greys: Path, tiny_model_dir: Path) -> None:
    assert run(tiny_model_dir, "--mode", "slide", "--short-side", "48", "--flip")[0] == 0
    status, _, errors = run(tiny_model_dir, "--mode", "slide", "--crop", "32")
    assert (status, errors) == (
        1,
        "ecenet-evaluate: the crop is 32x32, but the graph takes windows of 32x64 only\n",
    )
    status, _, errors = run(tiny_model_dir, "--mode", "slide", "--short-side", "20")
    assert status == 1
    first = greys / "images" / "val" / "0.png"
    message = "the image is 20x45 where windows are cut from it, smaller than the 32x64"
    assert f"\necenet-evaluate: {first}: {message}" in errors


def test_another_datasets_model_is_refused(run: Run, tiny_model_dir: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    classes = (manifest.classes[0], replace(manifest.classes[1], name="gray"), manifest.classes[2])
    write_manifest(tiny_model_dir, replace(manifest, classes=classes))
    assert run(tiny_model_dir)[::2] == (
        1,
        "ecenet-evaluate: class 1 is 'gray' in the model and 'grey' in folder\n",
    )


def test_a_dataset_of_other_classes_is_scored_in_the_models(
    run: Run, tiny_model_dir: Path, greys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = run(tiny_model_dir)[1]
    hours = {"night": "dark", "dusk": "grey", "day": "bright"}
    names = [{"name": name, "color": [index, 0, 0]} for index, name in enumerate(hours)]
    (greys / "classes.json").write_text(json.dumps({"classes": names}))
    monkeypatch.setitem(cast(dict[str, dict[str, str]], NAMED_MAPS), "hours", hours)
    assert run(tiny_model_dir)[0] == 1
    status, mapped, _ = run(tiny_model_dir, "--class-map", "hours")
    assert (status, mapped.rpartition(" in ")[0]) == (0, own.rpartition(" in ")[0])

    assert "map of classes 'minutes' is unknown" in run(tiny_model_dir, "--class-map", "minutes")[2]
    assert "leave out --class-map" in run(tiny_model_dir, "--class-map", "hours", "--update-manifest")[2]


def test_scores_are_written_into_the_manifest(run: Run, tiny_model_dir: Path, tmp_path: Path) -> None:
    assert run(tiny_model_dir, "--update-manifest", "--json", str(tmp_path / "scores.json"))[0] == 0
    figures = json.loads((tmp_path / "scores.json").read_text())
    assert read_manifest(tiny_model_dir).metrics == {
        "val_miou": round(figures["miou"], 4),
        "val_accuracy": round(figures["accuracy"], 4),
        "val_mean_accuracy": round(figures["mean_accuracy"], 4),
    }


def test_a_full_disk_is_told_with_the_file(run: Run, tiny_model_dir: Path) -> None:
    status, _, errors = run(tiny_model_dir, "--json", "/dev/full")
    assert (status, errors.splitlines()[-1]) == (
        1,
        "ecenet-evaluate: [Errno 28] No space left on device: '/dev/full'",
    )


def test_a_manifest_states_only_what_the_service_answers(run: Run, tiny_model_dir: Path, greys: Path) -> None:
    status, table, errors = run(tiny_model_dir, "--update-manifest", "--flip")
    assert (status, table) == (1, "")
    assert "--update-manifest states what the service answers" in errors
    assert "--update-manifest needs one" in run(tiny_model_dir / GRAPH_NAME, "--update-manifest")[2]
    for path in greys.glob("labels/val/*.png"):
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    assert "no labelled pixel" in run(tiny_model_dir, "--update-manifest")[2]
    assert read_manifest(tiny_model_dir).metrics == {}


def test_the_table_has_a_row_per_class_and_the_means() -> None:
    classes = [
        ClassInfo(index, name, (0, 0, 0)) for index, name in enumerate(("road", "a very long class name", "sky"))
    ]
    counts = Counts(np.array([[6, 2, 0], [0, 8, 0], [0, 0, 0]]), np.array([[1, 3, 0], [4, 4, 0]]))
    assert report(counts.scores(), classes).splitlines() == [
        "class                     IoU      Acc boundary",
        "road                    75.00    75.00    25.00",
        "a very long class name  80.00   100.00    75.00",
        "sky                       nan      nan      nan",
        "mIoU                    77.50",
        "aAcc                    87.50",
        "mAcc                    87.50",
        "boundary mIoU           50.00",
    ]
    plain = Counts(counts.confusion).scores()
    assert report(plain, classes).splitlines()[0] == "class                     IoU      Acc"
    figures = as_dict(plain, classes)
    assert figures["class_iou"] == {"road": 0.75, "a very long class name": 0.8, "sky": None}
    assert "boundary_miou" not in figures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crop", "1x2x3"], "'1x2x3' is not a size; give pixels, e.g. 640 or 360x480"),
        (["--stride", "-4"], "'-4' is not a size"),
        (["--scales", "1,two"], "'1,two' is not a list of scales"),
        (["--mode", "squint"], "invalid choice: 'squint'"),
    ],
)
def test_options_that_cannot_be_read_are_told(
    arguments: list[str], message: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("model", *arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scales", "0"], "a scale is 0, expected above 0"),
        (["--crop", "32"], "--crop and --stride are for --mode slide"),
        (["--split", "test"], "test"),
        (["--engine", "abacus"], "unknown engine 'abacus'; the engines are auto, tensorrt,"),
    ],
)
def test_options_that_do_not_fit_end_with_a_sentence(
    arguments: list[str], message: str, run: Run, tiny_model_dir: Path
) -> None:
    status, table, errors = run(tiny_model_dir, *arguments)
    assert (status, table) == (1, "")
    assert errors.startswith("ecenet-evaluate: ")
    assert message in errors
