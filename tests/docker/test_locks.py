"""The locked dependencies of the images: complete, hashed, and those of pyproject.toml and constraints.txt."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = ("cpu", "gpu", "train")
# Packages of an extra that its image leaves out, for its size.
LEFT_OUT = {"cpu": {"openvino"}}
# Those whose wheels are on NVIDIA's index alone.
NVIDIA = "requirements.nvidia.txt"


def pins(path: Path) -> dict[NormalizedName, str]:
    """Version by package of a file of pinned requirements; hashes and markers are left out."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def lock(name: str) -> Path:
    return ROOT / "docker" / f"requirements.{name}.lock"


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_lock_satisfies_pyproject(extra: str) -> None:
    locked = pins(lock(extra)) | pins(ROOT / "docker" / NVIDIA)
    traces = [] if extra == "train" else PROJECT["optional-dependencies"]["otel"]
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"][extra] + traces
    requirements = [each for each in map(Requirement, wanted) if each.name not in LEFT_OUT.get(extra, ())]
    for requirement in requirements:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_what_builds_wheels_satisfies_pyproject() -> None:
    locked = pins(lock("build"))
    assert set(locked) == {"setuptools", "ziglang"}
    for requirement in map(Requirement, PYPROJECT["build-system"]["requires"]):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_lock_agrees_with_what_is_tested(extra: str) -> None:
    tested, locked = pins(ROOT / "constraints.txt"), pins(lock(extra))
    shared = tested.keys() & locked.keys()
    assert {"numpy", "pillow", "fastapi", "uvicorn"} <= shared
    assert {name: locked[name] for name in shared} == {name: tested[name] for name in shared}


@pytest.mark.parametrize("name", [*EXTRAS, "build"])
def test_every_line_has_hashes(name: str) -> None:
    blocks = re.split(r"\n(?=[A-Za-z0-9])", lock(name).read_text(encoding="utf-8"))[1:]
    assert len(blocks) == len(pins(lock(name)))
    assert [block.split()[0] for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)] == []


def test_one_package_alone_is_outside_the_lock_and_its_version_is_that_of_the_others() -> None:
    outside, locked = pins(ROOT / "docker" / NVIDIA), pins(lock("gpu"))
    assert outside == {"tensorrt-cu13-libs": locked[canonicalize_name("tensorrt")]}
    assert {locked[canonicalize_name(f"tensorrt-cu13{part}")] for part in ("", "-bindings")} == set(outside.values())


@pytest.mark.deployment
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.12", "3.13"])
def test_pypi_has_a_hashed_wheel_of_everything(machine: str, python: str, tmp_path: Path) -> None:
    for name in ("cpu", "build", "train"):
        resolve(lock(name), machine, python, tmp_path)


@pytest.mark.deployment
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_gpu_lock_lacks_the_wheels_that_pypi_has_in_source(machine: str, tmp_path: Path) -> None:
    # Pure Python that only names what it needs.
    resolve(lock("gpu"), machine, "3.12", tmp_path, "--no-binary", "tensorrt", "--no-binary", "tensorrt-cu13")


def resolve(path: Path, machine: str, python: str, target: Path, *options: str) -> None:
    """Check that a lock can be installed from wheels on a machine of another kind, by the index's lists of files."""
    uv = Path(sys.executable).with_name("uv")
    command = [
        str(uv),
        "pip",
        "install",
        "--dry-run",
        "--no-config",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    platform = ["--python-platform", f"{machine}-manylinux_2_39", "--python-version", python, "--target", str(target)]
    result = subprocess.run([*command, *options, *platform, "-r", path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"Would install {len(wanted_on(path, machine, python))} packages" in result.stderr


def wanted_on(path: Path, machine: str, python: str) -> list[Requirement]:
    """The requirements of a lock whose markers hold on Linux."""
    lines = re.findall(r"^([A-Za-z0-9][^\\\n]*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    here = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    here |= {"platform_machine": machine, "python_version": python, "python_full_version": f"{python}.0"}
    requirements = map(Requirement, lines)
    return [each for each in requirements if each.marker is None or each.marker.evaluate(here)]
