"""TensorRT's libraries pinned by the hashes of an index, here a stand-in of NVIDIA's."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")
NAME, VERSION = "tensorrt-cu13-libs", "11.4.0.106"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the command reads and writes."""
    (tmp_path / "docker").mkdir()
    shutil.copy(ROOT / "docker/lock-nvidia", tmp_path / "docker")
    (tmp_path / "docker/requirements.nvidia.txt").write_text(f"# A comment.\ntensorrt-cu13-libs=={VERSION}\n")
    return tmp_path


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    name = f"tensorrt_cu13_libs-{VERSION}"
    path = tmp_path / "index/tensorrt-cu13-libs" / f"{name}-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    with ZipFile(path, "w") as file:
        file.writestr(
            f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: tensorrt-cu13-libs\nVersion: {VERSION}\n"
        )
        file.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{name}.dist-info/RECORD", "")
    return path


@pytest.fixture
def index(wheel: Path) -> Iterator[str]:
    """URL of an index whose pages name the hashes of their files."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    page = f'<!DOCTYPE html><a href="{wheel.name}#sha256={digest}">{wheel.name}</a>'
    (wheel.parent / "index.html").write_text(page)
    handler = partial(SimpleHTTPRequestHandler, directory=str(wheel.parent.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_pin_is_the_indexs_hash_and_a_changed_wheel_is_refused(checkout: Path, wheel: Path, index: str) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for _ in range(2):  # the second time from what the first one wrote
        subprocess.run([checkout / "docker/lock-nvidia", UV, index], check=True)
    pins = checkout / "docker/requirements.nvidia.txt"
    assert pins.read_text().splitlines()[1:] == [
        f"tensorrt-cu13-libs=={VERSION} \\",
        f"    --hash=sha256:{digest}",
    ]
    # As the Dockerfile installs it.
    install = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
    install += ["--index-url", index, "--dest", str(checkout / "got"), "-r", str(pins)]
    assert subprocess.run(install, capture_output=True, check=False).returncode == 0
    with ZipFile(wheel, "a") as file:
        file.writestr("more.py", "")
    (wheel.parent / "index.html").write_text(f'<!DOCTYPE html><a href="{wheel.name}">{wheel.name}</a>')
    shutil.rmtree(checkout / "got")
    refused = subprocess.run(install, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in refused.stderr


def test_an_index_without_the_version_changes_nothing(checkout: Path, index: str) -> None:
    pins = checkout / "docker/requirements.nvidia.txt"
    pins.write_text("tensorrt-cu13-libs==99.0\n")
    refused = subprocess.run([checkout / "docker/lock-nvidia", UV, index], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "tensorrt-cu13-libs" in refused.stderr
    assert pins.read_text() == "tensorrt-cu13-libs==99.0\n"
