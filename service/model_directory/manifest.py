"""The manifest of a model directory: all that a runtime must know of a model.

A model directory holds ``manifest.json``, one ONNX graph or several (input sizes, precisions), and the inputs that an
engine proves itself on (``golden.npz``). Engines built from its graphs: ``service.model_directory.engine_store``.
This module needs the standard library only, so that the serving install reads manifests without PyTorch or ONNX.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from service.model_directory.files import read_bounded, write_whole
from service.model_directory.sizes import SIZE_LIMITS, Size, format_size

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
GRAPH_NAME = "model.onnx"
GOLDEN_NAME = "golden.npz"
LOGITS_STRIDE = 4
# 256 classes, ten graphs and notes have some 50 KB.
MAX_MANIFEST_BYTES = 1 << 20
# Versions stand in headers and paths, names in paths and metrics.
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
_MAX_NAME_LENGTH = 128

Precision = Literal["fp32", "bf16", "fp16", "int8", "fp8"]
Output = Literal["logits", "labels"]
LogitsType = Literal["float32", "float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# Precisions of files. A runtime can compute a float32 graph in bf16, see ``in_bf16``.
STORED_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")
OUTPUTS: tuple[Output, ...] = get_args(Output)
LOGITS_TYPES: tuple[LogitsType, ...] = get_args(LogitsType)

T = TypeVar("T")


class ManifestError(ValueError):
    """A model directory that cannot be used; the text names the file, the value and the expectation."""


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class: its id in label maps, its name, and its RGB colour, 0..255 each."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file that belongs to the model: its path from the model directory, and its SHA-256 in hexadecimal."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of a graph's difference from PyTorch in float32.

    Attributes:
        min_equal_labels: Share of equal labels, 0..1, at least.
        max_logit_error: Absolute error of a logit at most; None for no limit.
    """

    min_equal_labels: float
    max_logit_error: float | None = None


# By precision. For int8 and fp8 the quantiser measures what its graph keeps, and writes its own.
DEFAULT_BOUNDS: Mapping[Precision, Bounds] = {
    "fp32": Bounds(0.999, 1e-3),
    "bf16": Bounds(0.98),
    "fp16": Bounds(0.99),
    "int8": Bounds(0.9),
    "fp8": Bounds(0.9),
}


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """One ONNX graph of the model.

    Attributes:
        file: Its name in the model directory.
        sha256: Its SHA-256 in hexadecimal.
        input_size: (height, width) in pixels of its input ``images``, (B, height, width, 3) uint8, RGB, B free.
        precision: Arithmetic of its convolutions and matrix products.
        output: ``logits``, (B, K, h, w), or ``labels``, (B, h, w) uint8.
        logits_type: Type of the logits: ``float16`` where the network computes them in half precision anyway.
        output_stride: Pixels of the input per cell of the output; 4, or 1 for labels at image size.
        bounds: How far it may be from PyTorch.
    """

    file: str
    sha256: str
    input_size: Size
    precision: Precision = "fp32"
    output: Output = "logits"
    logits_type: LogitsType = "float32"
    output_stride: int = LOGITS_STRIDE
    bounds: Bounds = DEFAULT_BOUNDS["fp32"]

    @property
    def output_size(self) -> Size:
        """(h, w) of the output in cells; a remainder of less than a cell gets its own."""
        height, width = self.input_size
        return -(-height // self.output_stride), -(-width // self.output_stride)

    def output_shape(self, batch: int, num_classes: int) -> tuple[int, ...]:
        """Shape of the output of a batch."""
        return (batch, num_classes, *self.output_size) if self.output == "logits" else (batch, *self.output_size)


def in_bf16(graph: GraphInfo) -> GraphInfo:
    """A float32 graph as a runtime runs it that computes in bf16: the same file, held to the bounds of bf16."""
    return replace(graph, precision="bf16", bounds=DEFAULT_BOUNDS["bf16"])


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model as runtimes see it.

    Attributes:
        name: Model name, e.g. ``ecenet-lite0-camvid``.
        version: Version of the weights, e.g. ``1.0.0``.
        architecture: Named size of the network, e.g. ``ecenet-lite0``.
        classes: Classes in the order of the logits' channels; ids are 0..K-1.
        graphs: The graphs; the first serves by default.
        golden: Inputs with PyTorch's outputs, see ``service.model_directory.golden``.
        checkpoint: The weights that the graphs come from, where they were at the export; they need not be there.
        metrics: Figures such as ``miou``, in the unit that their name states.
        data: Training data of the model.
        license: Terms of weights and training data.
        exporter: Versions of the packages that wrote the graphs.
        format_version: Version of this format.
    """

    name: str
    version: str
    architecture: str
    classes: tuple[ClassInfo, ...]
    graphs: tuple[GraphInfo, ...]
    golden: FileInfo | None = None
    checkpoint: FileInfo | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: str = ""
    license: str = ""
    exporter: Mapping[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def graph(self) -> GraphInfo:
        """The graph that serves by default."""
        return self.graphs[0]

    @property
    def graph_list(self) -> str:
        """Size and precision of every graph, for messages: ``360x480 fp32, 360x480 fp16``."""
        return ", ".join(f"{format_size(graph.input_size)} {graph.precision}" for graph in self.graphs)

    @property
    def palette(self) -> bytes:
        """RGB triples of all classes in the order of their ids, ``3 * K`` bytes."""
        return bytes(channel for info in self.classes for channel in info.color)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(directory: Path, manifest: Manifest) -> Path:
    """Write ``manifest.json`` into ``directory``, in one step, and give its path.

    Raises:
        ManifestError: A name or version that no service would take.
    """
    check_identity(manifest.name, manifest.version, str(directory / MANIFEST_NAME))
    path = directory / MANIFEST_NAME
    write_whole(path, (json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n").encode())
    return path


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of a model directory, and check graphs and golden inputs against it.

    Raises:
        ManifestError: A missing file, a field that is missing, unknown or out of range, or a file whose SHA-256 is not
            the one that the manifest states.
    """
    manifest = read_manifest_alone(directory)
    for graph in manifest.graphs:
        _check_file(directory, graph)
    if manifest.golden is not None:
        _check_file(directory, manifest.golden)
    return manifest


def read_manifest_alone(directory: Path) -> Manifest:
    """Read the manifest of a model directory; the files that it names are not read.

    Raises:
        ManifestError: No manifest, one that cannot be read, or see ``parse_manifest``.
    """
    path = directory / MANIFEST_NAME
    try:
        raw = json.loads(read_bounded(path, MAX_MANIFEST_BYTES).decode())
    except FileNotFoundError:
        raise ManifestError(f"{directory} is not a model directory: it has no {MANIFEST_NAME}") from None
    except RecursionError:
        raise ManifestError(f"{path} cannot be read: its JSON is nested too deep") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error
    return parse_manifest(raw, source=str(path))


def parse_manifest(raw: Any, source: str = MANIFEST_NAME) -> Manifest:
    """Build a manifest from decoded JSON.

    Raises:
        ManifestError: The text names ``source``, the field and the expectation.
    """
    if not isinstance(raw, dict):
        raise ManifestError(f"{source}: expected an object, got {type(raw).__name__}")
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise ManifestError(f"{source}: format_version is {version!r}, this release reads {FORMAT_VERSION}")
    try:
        manifest = Manifest(
            **{
                **raw,
                "classes": tuple(class_info(entry) for entry in raw["classes"]),
                "graphs": tuple(parse_graph(entry) for entry in raw["graphs"]),
                "golden": _optional(raw.get("golden"), _file_info),
                "checkpoint": _optional(raw.get("checkpoint"), _file_info_anywhere),
            }
        )
        _check_notes(manifest)
    except KeyError as error:
        raise ManifestError(f"{source}: field {error.args[0]!r} is missing") from None
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ManifestError(f"{source}: {error}") from error
    check_identity(manifest.name, manifest.version, source)
    ids = [info.id for info in manifest.classes]
    if not 2 <= len(ids) <= 256 or ids != list(range(len(ids))):
        raise ManifestError(f"{source}: class ids are {ids}, expected 0..K-1 in order with 2 <= K <= 256")
    if fault := same_name([info.name for info in manifest.classes]):
        raise ManifestError(f"{source}: {fault}")
    if not manifest.graphs:
        raise ManifestError(f"{source}: graphs is empty, expected one or more")
    return manifest


def same_name(names: Sequence[str]) -> str | None:
    """Describe the first two classes that have the same name, as the text of an error; None if all names differ.

    Case does not count, as requests name classes without it. ``names`` are in the order of the ids.
    """
    ids: dict[str, int] = {}
    for index, name in enumerate(names):
        first = ids.setdefault(name.casefold(), index)
        if first != index:
            both = f"class {first} {names[first]!r} and class {index} {name!r}"
            return f"{both} have the same name (case does not count); rename one of them"
    return None


def check_identity(name: str, version: str, source: str) -> None:
    """Check a model's name and version.

    Raises:
        ManifestError: No service would take them; the text names ``source``.
    """
    for field_name, value in (("name", name), ("version", version)):
        if not isinstance(value, str) or not value:
            raise ManifestError(f"{source}: {field_name} is {value!r}, expected text")
    if len(name) > _MAX_NAME_LENGTH or not name.isprintable() or "/" in name:
        raise ManifestError(
            f"{source}: name is {name[:_MAX_NAME_LENGTH]!r}, expected up to {_MAX_NAME_LENGTH} printable characters "
            "without '/'"
        )
    if not _VERSION.fullmatch(version):
        raise ManifestError(
            f"{source}: version is {version[:_MAX_NAME_LENGTH]!r}, expected up to 64 letters, digits, '.', '_', '+' "
            "and '-', the first a letter or a digit"
        )


def _check_file(directory: Path, info: GraphInfo | FileInfo) -> None:
    path = directory / info.file
    try:
        if not path.is_file():
            raise ManifestError(f"{directory} has no {info.file}; export the checkpoint again")
        digest = file_sha256(path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    if digest != info.sha256:
        raise ManifestError(
            f"{path} has SHA-256 {digest}, the manifest states {info.sha256}: "
            "the file was changed after the export; export the checkpoint again"
        )


def class_info(entry: Mapping[str, Any]) -> ClassInfo:
    """The class of its JSON.

    Raises:
        KeyError, TypeError, ValueError: It is malformed.
    """
    red, green, blue = (_whole(channel, "a colour") for channel in entry["color"])
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"colour {entry['color']} of class {entry.get('id')!r} is not within 0..255")
    return ClassInfo(
        _whole(entry["id"], "the id of a class"), _text(entry["name"], "a class's name"), (red, green, blue)
    )


def parse_graph(entry: Mapping[str, Any]) -> GraphInfo:
    """The graph of its JSON.

    Raises:
        KeyError, TypeError, ValueError: It is malformed.
    """
    fields = {**entry, "input_size": _input_size(entry["input_size"])}
    if "bounds" in entry:
        fields["bounds"] = _bounds(entry["bounds"])
    graph = GraphInfo(**fields)
    _check_name(graph.file)
    _text(graph.sha256, f"sha256 of {graph.file}")
    if graph.precision not in STORED_PRECISIONS:
        expected = ", ".join(STORED_PRECISIONS)
        raise ValueError(f"precision of {graph.file} is {graph.precision!r}, expected one of {expected}")
    if graph.output not in OUTPUTS:
        raise ValueError(f"output of {graph.file} is {graph.output!r}, expected one of {', '.join(OUTPUTS)}")
    if graph.logits_type not in LOGITS_TYPES:
        expected = " or ".join(LOGITS_TYPES)
        raise ValueError(f"logits_type of {graph.file} is {graph.logits_type!r}, expected {expected}")
    strides = (LOGITS_STRIDE,) if graph.output == "logits" else (1, LOGITS_STRIDE)
    if graph.output_stride not in strides:
        expected = " or ".join(map(str, strides))
        raise ValueError(f"output_stride of {graph.file} is {graph.output_stride!r}, expected {expected}")
    return graph


def _bounds(entry: Mapping[str, Any]) -> Bounds:
    bounds = Bounds(**entry)
    share, error = bounds.min_equal_labels, bounds.max_logit_error
    if not (_is_number(share) and 0 <= share <= 1):
        raise ValueError(f"min_equal_labels is {share!r}, expected a share within 0..1")
    if error is not None and not (_is_number(error) and error >= 0):
        raise ValueError(f"max_logit_error is {error!r}, expected a number of 0 or more, or null")
    return bounds


def _file_info(entry: Mapping[str, Any]) -> FileInfo:
    info = _file_info_anywhere(entry)
    _check_name(info.file)
    return info


def _file_info_anywhere(entry: Mapping[str, Any]) -> FileInfo:
    info = FileInfo(**entry)
    return FileInfo(_text(info.file, "file"), _text(info.sha256, f"sha256 of {info.file}"))


def _check_notes(manifest: Manifest) -> None:
    """Raises ``TypeError`` for a note of another type."""
    for name in ("architecture", "data", "license"):
        _text(getattr(manifest, name), name)
    for name in ("metrics", "exporter"):
        if not isinstance(getattr(manifest, name), dict):
            raise TypeError(f"{name} is {getattr(manifest, name)!r}, expected an object")
    for name, value in manifest.metrics.items():
        if type(value) not in (int, float):
            raise TypeError(f"metrics has {name} {value!r}, expected a number")
    for name, text in manifest.exporter.items():
        _text(text, f"exporter's {name}")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, expected text")
    return value


def _whole(value: Any, name: str) -> int:
    if type(value) is not int:
        raise TypeError(f"{name} is {value!r}, expected a whole number")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value)


def _check_name(file: str) -> None:
    if not isinstance(file, str) or Path(file).name != file or file in ("", "..") or not file.isprintable():
        raise ValueError(f"file is {file!r}, expected a name without folders")


def _optional(entry: Any, build: Callable[[Any], T]) -> T | None:
    return None if entry is None else build(entry)


def _input_size(entry: Any) -> Size:
    height, width = (_whole(side, "a side of input_size") for side in entry)
    least, most = SIZE_LIMITS
    if not (least <= height <= most and least <= width <= most):
        raise ValueError(f"input_size is {entry}, expected two sides within {least}..{most}")
    return height, width
