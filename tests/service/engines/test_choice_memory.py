"""A start remembers what an earlier one measured, as long as nothing that it depends on has changed."""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.engines import choice_memory, create
from service.engines.base import Engine
from service.engines.options import EngineOptions
from service.engines.runtimes import RuntimeName
from service.engines.trial import Candidate
from service.model_directory.manifest import Manifest
from tests.support.stopwatch import OPTIONS, PRODUCTS, Stopwatch


def test_the_next_start_measures_nothing_and_says_so(
    open_as: Callable[[Stopwatch], Engine], state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Stopwatch(), Stopwatch({"onnxruntime fp32": 0.1})
    with caplog.at_level(logging.INFO, "service.engines.measured_choice"):
        assert [open_as(stopwatch).name for stopwatch in (first, second)] == ["openvino", "openvino"]
    assert (len(first.timed) >= 2, second.timed) == (True, [])
    lines = [record.message for record in caplog.records if record.name == "service.engines.measured_choice"]
    announced, measured, remembered = lines
    assert announced.startswith("measuring onnxruntime fp32, openvino fp32")
    assert measured.startswith("openvino fp32 serves (measured): onnxruntime fp32 9.0 ms alone, 9.0 ms an image")
    assert remembered.startswith("openvino fp32 serves (remembered from an earlier start): onnxruntime fp32 9.0 ms")
    assert len(list((state / "engine-choices").iterdir())) == 1


@pytest.mark.parametrize("fastest", ["onnxruntime", "openvino"])
def test_a_remembered_choice_imports_no_other_runtime(
    fastest: str, open_as: Callable[[Stopwatch], Engine], tiny_model_dir: Path
) -> None:
    open_as(Stopwatch({**PRODUCTS, f"{fastest} fp32": 1.0}))
    program = (
        "import sys; from pathlib import Path; from service.engines.measured_choice import open_engine\n"
        "from service.engines.options import EngineOptions\n"
        "from service.model_directory.manifest import read_manifest\n"
        "folder, options = Path(sys.argv[1]), EngineOptions(num_threads=2, num_streams=2, measure=True)\n"
        "print(open_engine(folder, read_manifest(folder), options).name, *{'onnxruntime', 'openvino'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program, tiny_model_dir], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [fastest, fastest]


def test_a_remembered_runtime_that_is_broken_is_not_insisted_on(
    open_as: Callable[[Stopwatch], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_as(Stopwatch()).name == "openvino"
    monkeypatch.setattr(create, "openvino_obstacle", lambda _: "libopenvino.so: file too short")
    again = Stopwatch()
    assert (open_as(again).name, set(again.timed)) == ("onnxruntime", {"onnxruntime fp32"})


BROKEN = ["", "[]", "{}", '[{"candidate": {"runtime": "x"}, "timing": null}]', "[1]", "[" * 100_000]


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_memory_is_measured_again(
    content: str, open_as: Callable[[Stopwatch], Engine], state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_as(Stopwatch())
    (kept,) = (state / "engine-choices").iterdir()
    good = json.loads(kept.read_text())
    kept.write_text(content)
    again = Stopwatch()
    open_as(again)
    assert f"{kept} cannot be used, so engines are measured again: " in caplog.text
    assert "onnxruntime fp32" in again.timed
    assert json.loads(kept.read_text()) == good


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda trial: trial["candidate"].update(runtime="another"), "it is of other runtimes or precisions"),
        (lambda trial: trial["timing"].update(num_streams=3), "it has more than 2 streams"),
        (lambda trial: trial["timing"].update(alone=-1.0), "times are"),
    ],
    ids=["runtime", "streams", "time"],
)
def test_a_memory_of_something_else_is_measured_again(
    change: Callable[[Any], None],
    reason: str,
    open_as: Callable[[Stopwatch], Engine],
    state: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    open_as(Stopwatch())
    (kept,) = (state / "engine-choices").iterdir()
    trials = json.loads(kept.read_text())
    change(trials[0])
    kept.write_text(json.dumps(trials))
    again = Stopwatch()
    open_as(again)
    assert "onnxruntime fp32" in again.timed
    assert f"so engines are measured again: {reason}" in caplog.text


def test_a_state_folder_that_cannot_be_written_is_read_and_said(
    open_as: Callable[[Stopwatch], Engine],
    state: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_as(Stopwatch())
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    monkeypatch.setattr("os.access", lambda *_: False)
    caplog.clear()
    again = Stopwatch()
    assert open_as(again).name == "openvino"
    assert again.timed == []
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"nothing more is kept for the next start: {state} cannot be written"
    ]
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest, options: (replace(manifest, graphs=(replace(manifest.graph, sha256="1" * 64),)), options),
        lambda manifest, options: (manifest, replace(options, num_threads=3)),
        lambda manifest, options: (manifest, replace(options, num_streams=1)),
        lambda manifest, options: (manifest, replace(options, max_batch_size=1)),
    ],
    ids=["graph", "threads", "streams", "batch"],
)
def test_the_memory_is_of_one_graph_and_one_number_of_threads(
    change: Callable[[Manifest, EngineOptions], tuple[Manifest, EngineOptions]], manifest: Manifest
) -> None:
    changed, options = change(manifest, OPTIONS)
    assert choice_memory.choice_key(changed, [], options) != choice_memory.choice_key(manifest, [], OPTIONS)


@pytest.mark.parametrize("name", ["processor", "_version"])
def test_another_processor_or_another_version_measures_again(
    name: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = choice_memory.choice_key(manifest, [], OPTIONS)
    monkeypatch.setattr(choice_memory, name, lambda *_: "another")
    assert choice_memory.choice_key(manifest, [], OPTIONS) != before


def test_on_another_gpu_or_driver_engines_are_measured_again(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(runtime: RuntimeName, *gpu: str) -> str:
        monkeypatch.setattr(choice_memory, "detect_gpu", lambda: gpu)
        return choice_memory.choice_key(manifest, [Candidate(runtime, "fp16")], OPTIONS)

    gpus = [("NVIDIA L4", "8.9", "13.0"), ("NVIDIA L40S", "8.9", "13.0"), ("NVIDIA L4", "8.9", "13.1")]
    assert len({key("tensorrt", *gpu) for gpu in gpus}) == 3
    assert len({key("openvino", *gpu) for gpu in gpus}) == 1


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(
    open_as: Callable[[Stopwatch], Engine], state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state.write_text("a file")
    assert open_as(Stopwatch()).name == "openvino"
    assert "nothing is kept for the next start" in caplog.text


def test_a_full_disk_costs_the_memory_alone_and_leaves_no_file(
    open_as: Callable[[Stopwatch], Engine],
    state: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_text(path: Path, *_: object, **__: object) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_text)
        assert open_as(Stopwatch()).name == "openvino"
    assert "No space left on device" in caplog.text
    assert not [*state.rglob("*.json"), *state.rglob(".choice-*")]
