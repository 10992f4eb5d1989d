"""The manifest of a model directory: all that the service must know of a model.

A model directory holds ``model.onnx`` and ``manifest.json``. This module needs the standard library only, so that the
serving install reads manifests without PyTorch or ONNX.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
GRAPH_NAME = "model.onnx"
OUTPUT_STRIDE = 4


class ManifestError(ValueError):
    """A model directory that cannot be used; the text names the file, the value and what was expected."""


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class: its id in label maps, its name, and its RGB colour, 0..255 each."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model as the service sees it.

    Attributes:
        name: Model name, e.g. ``ecenet-lite0-camvid``.
        version: Version of the weights, e.g. ``1.0.0``.
        architecture: Named size of the network, e.g. ``ecenet-lite0``.
        classes: Classes in the order of the logits' channels; ids are 0..K-1.
        input_size: (height, width) in pixels of the graph's uint8 input ``(B, height, width, 3)``, RGB.
        graph_sha256: SHA-256 of ``model.onnx`` in hexadecimal.
        metrics: Figures such as ``miou``, in the unit that their name tells.
        data: What the model was trained on.
        license: Terms of weights and training data.
        exporter: Versions of the packages that wrote the graph.
        precision: Arithmetic of the graph, ``fp32``.
        output_stride: Pixels of the input per cell of the logits.
        format_version: Version of this format.
    """

    name: str
    version: str
    architecture: str
    classes: tuple[ClassInfo, ...]
    input_size: tuple[int, int]
    graph_sha256: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: str = ""
    license: str = ""
    exporter: Mapping[str, str] = field(default_factory=dict)
    precision: str = "fp32"
    output_stride: int = OUTPUT_STRIDE
    format_version: int = FORMAT_VERSION

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def logits_size(self) -> tuple[int, int]:
        """(height, width) of the logits in cells."""
        return logits_size(self.input_size)

    @property
    def palette(self) -> bytes:
        """RGB triples of all classes in the order of their ids, ``3 * K`` bytes."""
        return bytes(channel for info in self.classes for channel in info.color)


def logits_size(input_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in cells of the logits of an input; a rest that is no whole cell has a cell of its own."""
    height, width = input_size
    return -(-height // OUTPUT_STRIDE), -(-width // OUTPUT_STRIDE)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(directory: Path, manifest: Manifest) -> Path:
    """Write ``manifest.json`` into ``directory`` and give its path."""
    path = directory / MANIFEST_NAME
    path.write_text(json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of a model directory, and check the graph against it.

    Raises:
        ManifestError: A missing file, a field that is missing, unknown or out of range, or a graph whose SHA-256 is not
            the one that the manifest states.
    """
    path = directory / MANIFEST_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{directory} is no model directory: it has no {MANIFEST_NAME}") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error
    manifest = parse_manifest(raw, source=str(path))
    graph = directory / GRAPH_NAME
    if not graph.is_file():
        raise ManifestError(f"{directory} has no {GRAPH_NAME}; export the checkpoint again")
    digest = file_sha256(graph)
    if digest != manifest.graph_sha256:
        raise ManifestError(
            f"{graph} has SHA-256 {digest}, the manifest states {manifest.graph_sha256}: "
            "the file was changed after the export; export the checkpoint again"
        )
    return manifest


def parse_manifest(raw: Any, source: str = MANIFEST_NAME) -> Manifest:
    """Build a manifest from decoded JSON.

    Raises:
        ManifestError: The text names ``source``, the field and what was expected.
    """
    if not isinstance(raw, dict):
        raise ManifestError(f"{source}: expected an object, got {type(raw).__name__}")
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise ManifestError(f"{source}: format_version is {version!r}, this release reads {FORMAT_VERSION}")
    try:
        fields = {
            **raw,
            "classes": tuple(_class_info(entry) for entry in raw["classes"]),
            "input_size": _input_size(raw["input_size"]),
        }
        manifest = Manifest(**fields)
    except KeyError as error:
        raise ManifestError(f"{source}: field {error.args[0]!r} is missing") from None
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{source}: {error}") from error
    ids = [info.id for info in manifest.classes]
    if not 2 <= len(ids) <= 256 or ids != list(range(len(ids))):
        raise ManifestError(f"{source}: class ids are {ids}, expected 0..K-1 in order with 2 <= K <= 256")
    if manifest.output_stride != OUTPUT_STRIDE:
        raise ManifestError(f"{source}: output_stride is {manifest.output_stride!r}, expected {OUTPUT_STRIDE}")
    return manifest


def _class_info(entry: Mapping[str, Any]) -> ClassInfo:
    red, green, blue = (int(channel) for channel in entry["color"])
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"colour {entry['color']} of class {entry.get('id')!r} is not within 0..255")
    return ClassInfo(id=int(entry["id"]), name=str(entry["name"]), color=(red, green, blue))


def _input_size(entry: Any) -> tuple[int, int]:
    height, width = (int(side) for side in entry)
    if not (32 <= height <= 8192 and 32 <= width <= 8192):
        raise ValueError(f"input_size is {entry}, expected two sides within 32..8192")
    return height, width
