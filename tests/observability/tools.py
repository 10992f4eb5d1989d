"""Prometheus's and Alertmanager's own tools."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.observability.shipped import FOLDER


def path_of(tool: str) -> str:
    """Path of a tool; skips the test if it is not installed."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed: apt-get install prometheus prometheus-alertmanager")
    return path


def approved(tool: str, *arguments: str, folder: Path = FOLDER) -> str:
    """Output of a tool that has nothing against its input."""
    told = subprocess.run([path_of(tool), *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout
