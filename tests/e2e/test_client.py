"""``ecenet-segment`` and a real service: served, gone in the middle, back again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.client import Client
from service.client.cli import main
from tests.support.pictures import Png

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(model_dir: Path) -> Iterator[str]:
    """A service; gives its URL."""
    command = [sys.executable, "-m", "service", "--model-dir", str(model_dir), "--port", "0", "--drain-delay-s", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as popen:
        try:
            assert popen.stdout is not None
            yield popen.stdout.readline().split()[-1]
        finally:
            popen.kill()


def test_images_are_segmented_by_a_service_that_goes_and_comes_back(
    tiny_model_dir: Path, png: Png, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (photos / "a.png").write_bytes(png())
    with running(tiny_model_dir) as url:
        command = [str(photos), "-o", str(out), "--url", url]
        assert main(command) == 0
        with Client(url) as client:
            labels = client.segment(photos / "a.png").labels()
    with Image.open(out / "a.png.labels.png") as image:
        np.testing.assert_array_equal(np.asarray(image), labels)
    (photos / "b.png").write_bytes(png(64))
    assert main(command) == 1
    told = capsys.readouterr().err
    assert f"failed: {photos / 'b.png'}: {url}/segment cannot be reached" in told
    assert told.endswith("0 written, 1 there already, 1 failed, 0 not tried\n")
    with running(tiny_model_dir) as url:
        assert main([*command, "--url", url]) == 0
    with Image.open(out / "b.png.labels.png") as image:
        assert image.size == (96, 64)
