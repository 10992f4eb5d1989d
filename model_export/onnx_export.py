"""A checkpoint to a model directory: ONNX graphs with fused attention, golden inputs, and the manifest."""

from __future__ import annotations

import colorsys
import importlib.metadata
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from model_export.exportable import Exportable
from model_export.graph_precision import HALF_LOGITS_CLASSES, to_fp16
from model_export.images import sample_images
from model_export.parity import graph_agreement, labels_of_logits, pytorch_logits
from model_export.staging import staging_folder
from model_export.trace import OPSET, ExportError, check_graph, trace
from service.model_directory.agreement import Agreement
from service.model_directory.golden import Golden, make_golden, write_golden
from service.model_directory.manifest import (
    DEFAULT_BOUNDS,
    GOLDEN_NAME,
    GRAPH_NAME,
    LOGITS_STRIDE,
    MANIFEST_NAME,
    ClassInfo,
    FileInfo,
    GraphInfo,
    LogitsType,
    Manifest,
    Precision,
    check_identity,
    class_info,
    file_sha256,
    same_name,
    write_manifest,
)
from service.model_directory.sizes import SIZE_LIMITS, Size, format_size
from trainer.checkpoint import CheckpointError
from trainer.model.ecenet import ECENet
from trainer.weights.bundled import inherited_terms
from trainer.weights.network import load_model_and_entries

_GOLDEN_IMAGES = 2


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The fields of a manifest beside the graphs.

    Attributes:
        name: Model name.
        version: Version of the weights.
        data: Training data of the weights.
        license: Terms of weights and data; those that the weights have from the bundled model if None.
    """

    name: str
    version: str
    data: str = ""
    license: str | None = None


@dataclass(frozen=True, slots=True)
class GraphForms:
    """The graphs to write: every size in every precision, sizes first; the first one is the default.

    Attributes:
        sizes: (height, width) of inputs in pixels; empty for the one that the checkpoint was trained for.
        precisions: ``fp32``, ``fp16`` or both.
        labels_stride: None for logits; labels at stride 4, or at stride 1, the size of the input.

    Raises:
        ExportError: A size twice or out of range, or a precision that is not written here.
    """

    sizes: tuple[Size, ...] = ()
    precisions: tuple[Precision, ...] = ("fp32",)
    labels_stride: int | None = None

    def __post_init__(self) -> None:
        least, most = SIZE_LIMITS
        for size in self.sizes:
            if self.sizes.count(size) > 1:
                raise ExportError(f"size {format_size(size)} is given twice")
            if not all(least <= side <= most for side in size):
                raise ExportError(f"size is {format_size(size)}, expected sides within {least}..{most}")
        for precision in self.precisions:
            if self.precisions.count(precision) > 1:
                raise ExportError(f"precision {precision} is given twice")
            if precision not in ("fp32", "fp16"):
                raise ExportError(f"precision is {precision!r}, expected fp32 or fp16")


@dataclass(frozen=True, slots=True)
class GraphReport:
    """A graph that was written.

    Attributes:
        path: Its file.
        info: Its entry in the manifest.
        attentions: Its ``Attention`` nodes; those of Swin's windows count.
        agreement: Its agreement with PyTorch.
    """

    path: Path
    info: GraphInfo
    attentions: int
    agreement: Agreement


def export_onnx(
    checkpoint: Path,
    directory: Path,
    facts: ModelFacts,
    forms: GraphForms | None = None,
    *,
    images: Path | None = None,
    count: int = 4,
) -> list[GraphReport]:
    """Export a checkpoint into a model directory. Every graph is compared with PyTorch before the directory changes.

    Args:
        checkpoint: Any file that ``trainer.load_model`` takes.
        directory: The model directory; made if need be.
        facts: Name, version and notes of the manifest.
        forms: Which graphs; by default one, float32 logits of the checkpoint's own size.
        images: Image, or folder of images, to compare on and to keep two of as golden inputs; else generated ones.
        count: How many to compare on.

    Returns:
        A report on the written graphs and their agreement.

    Raises:
        ExportError: The directory holds a model already, no size is known or it is out of range, or a graph lacks an
            attention.
        ManifestError: A name or version that no service would take.
        CheckpointError: The file is not a whole network, or its classes are not those of the network.
        AgreementError: A graph does not agree with PyTorch. As with every error, nothing is left behind.
    """
    forms = forms or GraphForms()
    if (directory / MANIFEST_NAME).exists():
        raise ExportError(f"{directory} holds a model already; remove it or name another directory")
    check_identity(facts.name, facts.version, str(directory / MANIFEST_NAME))
    model, entries = load_model_and_entries(checkpoint)
    if facts.license is None:
        facts = replace(facts, license=_inherited_license(checkpoint, entries))
    if not isinstance(model, ECENet):
        raise CheckpointError(f"{checkpoint} holds a {type(model).__name__} alone, expected a whole network")
    forms = replace(forms, sizes=forms.sizes or _own_size(checkpoint, entries))
    classes = _classes(checkpoint, entries, model.config.num_classes)
    sizes = forms.sizes
    samples = {size: sample_images(images, size, count) for size in sizes}
    with _staged(directory) as staging:
        export = _Export(model, forms, staging)
        for size in sizes:
            export.add_size(size, samples[size])
        write_golden(staging / GOLDEN_NAME, export.golden)
        write_manifest(staging, _manifest(entries, facts, classes, export, _source(checkpoint, directory)))
    return [_moved(report, directory) for report in export.reports]


class _Export:
    """Writes graphs into a folder, one size after the other."""

    def __init__(self, model: ECENet, forms: GraphForms, folder: Path) -> None:
        self.model = model
        self.forms = forms
        self.folder = folder
        self.reports: list[GraphReport] = []
        self.golden: dict[Size, Golden] = {}

    def add_size(self, size: Size, images: Sequence[NDArray[np.uint8]]) -> None:
        logits = pytorch_logits(Exportable(self.model), images)
        traced = trace(Exportable(self.model, self.forms.labels_stride), size)
        for precision in self.forms.precisions:
            half_logits = self._logits_type(precision) == "float16"
            graph = traced if precision == "fp32" else to_fp16(traced, half_logits=half_logits)
            self._add_graph(graph, size, precision, images, logits)
        self.golden[size] = self._golden(images[:_GOLDEN_IMAGES], logits[:_GOLDEN_IMAGES])

    def _add_graph(
        self,
        graph: onnx.ModelProto,
        size: Size,
        precision: Precision,
        images: Sequence[NDArray[np.uint8]],
        logits: NDArray[np.float32],
    ) -> None:
        name = GRAPH_NAME if not self.reports else f"model-{format_size(size)}-{precision}.onnx"
        path = self.folder / name
        onnx.save(graph, path)
        stride = self.forms.labels_stride
        info = GraphInfo(
            file=name,
            sha256=file_sha256(path),
            input_size=size,
            precision=precision,
            output="logits" if stride is None else "labels",
            logits_type=self._logits_type(precision),
            output_stride=stride or LOGITS_STRIDE,
            bounds=DEFAULT_BOUNDS[precision],
        )
        operators = check_graph(graph)
        agreement = graph_agreement(path, info, images, logits)
        agreement.check(info.bounds, f"ONNX Runtime on {name}")
        self.reports.append(GraphReport(path, info, operators["Attention"], agreement))

    def _logits_type(self, precision: Precision) -> LogitsType:
        is_large = self.forms.labels_stride is None and self.model.config.num_classes >= HALF_LOGITS_CLASSES
        return "float16" if precision == "fp16" and is_large else "float32"

    def _golden(self, images: Sequence[NDArray[np.uint8]], logits: NDArray[np.float32]) -> Golden:
        infos = {report.info.output_stride: report.info for report in self.reports}
        further = {stride: labels_of_logits(logits, infos[stride]) for stride in infos if stride != LOGITS_STRIDE}
        return make_golden(np.stack(images), logits, further)


@contextmanager
def _staged(directory: Path) -> Iterator[Path]:
    """A folder whose files move into ``directory`` once all are written, the manifest last; if one fails, none is."""
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with staging_folder(directory) as staging:
            yield staging
            for path in sorted(staging.iterdir(), key=lambda path: path.name == MANIFEST_NAME):
                path.replace(directory / path.name)
    finally:
        if made:
            with suppress(OSError):  # it is not empty: the export went well
                directory.rmdir()


def _moved(report: GraphReport, directory: Path) -> GraphReport:
    return GraphReport(directory / report.info.file, report.info, report.attentions, report.agreement)


def _own_size(checkpoint: Path, entries: Mapping[str, Any]) -> tuple[Size, ...]:
    if "input_size" not in entries:
        raise ExportError(f"{checkpoint} does not state its input size; name one with --size HEIGHTxWIDTH")
    height, width = entries["input_size"]
    return ((int(height), int(width)),)


def _source(checkpoint: Path, directory: Path) -> FileInfo:
    path = Path(os.path.relpath(checkpoint.resolve(), directory.resolve()))
    return FileInfo(path.as_posix(), file_sha256(checkpoint))


def _manifest(
    entries: Mapping[str, Any], facts: ModelFacts, classes: tuple[ClassInfo, ...], export: _Export, source: FileInfo
) -> Manifest:
    packages = ("torch", "onnx", "onnxscript", "timm")
    return Manifest(
        name=facts.name,
        version=facts.version,
        architecture=entries.get("architecture", "ecenet"),
        classes=classes,
        graphs=tuple(report.info for report in export.reports),
        golden=FileInfo(GOLDEN_NAME, file_sha256(export.folder / GOLDEN_NAME)),
        checkpoint=source,
        metrics=entries.get("metrics", {}),
        data=facts.data or entries.get("dataset", ""),
        license=facts.license or "",
        exporter={name: importlib.metadata.version(name) for name in packages} | {"opset": str(OPSET)},
    )


def _inherited_license(checkpoint: Path, entries: Mapping[str, Any]) -> str:
    terms = inherited_terms(checkpoint, entries)
    return f"trained from the bundled model: {terms}" if terms else ""


def _classes(checkpoint: Path, entries: Mapping[str, Any], num_classes: int) -> tuple[ClassInfo, ...]:
    """The checkpoint's classes, or numbered ones in colours that differ.

    Raises:
        CheckpointError: They are malformed, two have the same name, or they are not those of the network's channels.
    """
    if "classes" in entries:
        try:
            classes = tuple(class_info(entry) for entry in entries["classes"])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint} has classes that cannot be used: {error}") from error
        ids = [info.id for info in classes]
        if ids != list(range(num_classes)):
            raise CheckpointError(f"{checkpoint} has the class ids {ids}, its network gives 0..{num_classes - 1}")
        if fault := same_name([info.name for info in classes]):
            raise CheckpointError(f"{checkpoint}: {fault}")
        return classes
    hues = [colorsys.hsv_to_rgb(index * 0.618 % 1, 0.6 + 0.4 * (index % 2), 0.9) for index in range(num_classes)]
    colors = [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues]
    return tuple(ClassInfo(index, f"class_{index}", color) for index, color in enumerate(colors))
