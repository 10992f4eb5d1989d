"""The page "Your own photos" as a user follows it: its commands, from an annotation tool's export to an answer."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.model_directory.manifest import read_manifest
from tests.support.drawn_shapes import write_export

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "trainer" / "README.md").read_text(encoding="utf-8")
MODULES = {"ecenet-train": "trainer.train", "ecenet-export": "model_export", "ecenet-serve": "service"}
SMALL = {
    "data.input_size": "[64,96]",
    "data.crop_size": "[64,96]",
    "data.repeat": "1",
    "schedule.epochs": "2",
    "schedule.batch_size": "4",
    "runtime.evaluate_every": "1",
    "runtime.workers": "0",
    "runtime.timed_steps": "1",
}
SHORT = {
    "ecenet-train my-data": [
        "--threads",
        "1",
        *(part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")),
    ],
    "ecenet-export runs/my-data -o models/mine": ["--no-int8"],  # which takes minutes; it has tests of its own
    "ecenet-serve --model-dir models/mine": ["--port", "0"],
}


def commands() -> list[str]:
    """The commands of the page, in its order."""
    section = PAGE.split("## Your own photos\n")[1].split("\n## ")[0]
    return re.findall(r"^\$ (.+)$", section, re.MULTILINE)


def process(command: str) -> list[str]:
    """A command of the page as a process of this environment, made short."""
    program, *arguments = shlex.split(command)
    return [sys.executable, "-m", MODULES[program], *arguments, *SHORT.get(command, [])]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def finished(command: str, folder: Path) -> str:
    """Run a command to its end; gives what it said."""
    done = subprocess.run(process(command), cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def served(command: str, folder: Path) -> Iterator[str]:
    """The URL of the service that a command starts."""
    with subprocess.Popen(process(command), cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True) as popen:
        try:
            assert popen.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", popen.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            popen.kill()


@pytest.mark.slow
def test_the_commands_of_the_page_lead_from_an_export_to_an_answer(tmp_path: Path) -> None:
    write_export(tmp_path / "export", 15, (60, 90))
    imported, checked, trained, exported, serve, ask = commands()
    assert "my-data: train 12 images, val 3 images" in finished(imported, tmp_path)
    assert "no problem: every file exists and can be used" in finished(checked, tmp_path)
    text = finished(trained, tmp_path)
    assert "12 images to learn from, 3 to evaluate on, 4 classes (folder)" in text
    assert "warning: val has 3 images" in text
    assert text.rstrip().endswith(f"next: {exported.replace('models/mine', 'models/my-data')}")
    log = [json.loads(line) for line in (tmp_path / "runs/my-data/log.jsonl").read_text().splitlines()]
    assert log[1]["val_miou"] > 0.15  # of four classes, after six steps
    text = finished(exported, tmp_path)
    assert f"next: {serve}\n" in text
    manifest = read_manifest(tmp_path / "models" / "mine")
    assert [info.name for info in manifest.classes] == ["background", "disc", "box", "triangle"]
    assert "Research use" in manifest.license

    query = re.search(r"localhost:8000(/[^']*)'", ask)
    assert query is not None
    photo = next((tmp_path / "my-data" / "images" / "val").iterdir())
    with served(serve, tmp_path) as url:
        answer = httpx.post(url + query[1], files={"file": photo.read_bytes()}, timeout=60)
    assert answer.status_code == 200, answer.text
    (tmp_path / "overlay").write_bytes(answer.content)
    with Image.open(tmp_path / "overlay") as overlay:
        assert overlay.size == (90, 60)
        assert np.asarray(overlay).std() > 0
