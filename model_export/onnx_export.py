"""A checkpoint to a model directory: ``model.onnx`` with fused attention, and its manifest."""

from __future__ import annotations

import colorsys
import importlib.metadata
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from model_export.exportable import INPUT_NAME, OUTPUT_NAME, Exportable
from model_export.manifest import (
    GRAPH_NAME,
    MANIFEST_NAME,
    ClassInfo,
    GraphInfo,
    Manifest,
    file_sha256,
    write_manifest,
)
from model_export.parity import Parity, compare, sample_images
from trainer.checkpoint import CheckpointError, load_model_and_entries
from trainer.model.decode_head import NUM_STAGES
from trainer.model.ecenet import ECENet

OPSET = 23
NUM_ATTENTIONS = NUM_STAGES - 1  # one per SAU


class ExportError(RuntimeError):
    """A model that cannot be exported, or a graph that is not what it has to be."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a manifest says of a model beyond its graph.

    Attributes:
        name: Model name.
        version: Version of the weights.
        data: What the weights were trained on.
        license: Terms of weights and data.
    """

    name: str
    version: str
    data: str = ""
    license: str = ""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        graph: The graph's file.
        input_size: (height, width) of its input in pixels.
        attentions: Its ``Attention`` nodes.
        parity: How well it agrees with PyTorch.
    """

    graph: Path
    input_size: tuple[int, int]
    attentions: int
    parity: Parity


def export_onnx(
    checkpoint: Path,
    directory: Path,
    facts: ModelFacts,
    *,
    size: tuple[int, int] | None = None,
    images: Path | None = None,
    count: int = 4,
) -> ExportReport:
    """Export a checkpoint into a model directory, and compare the graph with PyTorch before it gets its manifest.

    Args:
        checkpoint: Any file that ``trainer.load_model`` takes.
        directory: The model directory; made if need be.
        facts: Name, version and notes of the manifest.
        size: (height, width) of the graph's input in pixels; by default the one that the checkpoint was trained for.
        images: Folder of images to compare on; by default generated ones.
        count: How many.

    Returns:
        What was written, and how well it agrees.

    Raises:
        ExportError: The directory holds a model already, the input size is unknown, or the graph lacks an attention.
        CheckpointError: The file is no whole network.
        ParityError: The graph does not agree with PyTorch; the directory gets no manifest, so nothing can serve it.
    """
    if (directory / MANIFEST_NAME).exists():
        raise ExportError(f"{directory} holds a model already; remove it or name another directory")
    model, entries = load_model_and_entries(checkpoint)
    if not isinstance(model, ECENet):
        raise CheckpointError(f"{checkpoint} holds a {type(model).__name__} alone, expected a whole network")
    size = size or entries.get("input_size")
    if size is None:
        raise ExportError(f"{checkpoint} does not tell its input size; name one with --size HEIGHTxWIDTH")
    height, width = size
    samples = sample_images(images, (height, width), count)
    exportable = Exportable(model)
    directory.mkdir(parents=True, exist_ok=True)
    graph = directory / GRAPH_NAME
    operators = write_graph(exportable, (height, width), graph)
    parity = compare(exportable, graph, samples)
    parity.check()
    write_manifest(directory, _manifest(entries, facts, model.config.num_classes, (height, width), graph))
    return ExportReport(graph, (height, width), operators["Attention"], parity)


def write_graph(exportable: Exportable, size: tuple[int, int], path: Path) -> Counter[str]:
    """Trace the module at one image size with a dynamic batch, check the graph and write it.

    Returns:
        How many nodes there are of each operator.

    Raises:
        ExportError: The number of ``Attention`` nodes is not that of the SAUs, or a batch norm is left.
    """
    example = torch.zeros((2, *size, 3), dtype=torch.uint8)
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            exportable,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None  # given whenever dynamo=True
    temporary = path.with_name(path.name + ".part")
    program.save(str(temporary), external_data=False)
    operators = check_graph(temporary)
    temporary.replace(path)
    return operators


def check_graph(path: Path) -> Counter[str]:
    """Check a graph with ONNX's checker and for its fused parts.

    Returns:
        How many nodes there are of each operator.

    Raises:
        ExportError: See ``write_graph``.
    """
    model = onnx.load(path)
    onnx.checker.check_model(model)
    operators = Counter(node.op_type for node in model.graph.node)
    if operators["Attention"] < NUM_ATTENTIONS:
        raise ExportError(f"the graph has {operators['Attention']} Attention nodes, expected {NUM_ATTENTIONS}")
    if operators["BatchNormalization"]:
        raise ExportError(f"the graph has {operators['BatchNormalization']} batch norms that were not folded")
    return operators


def _manifest(
    entries: Mapping[str, Any], facts: ModelFacts, num_classes: int, size: tuple[int, int], graph: Path
) -> Manifest:
    packages = ("torch", "onnx", "onnxscript", "timm")
    return Manifest(
        name=facts.name,
        version=facts.version,
        architecture=entries.get("architecture", "ecenet"),
        classes=_classes(entries, num_classes),
        graphs=(GraphInfo(GRAPH_NAME, file_sha256(graph), size),),
        metrics=entries.get("metrics", {}),
        data=facts.data or entries.get("dataset", ""),
        license=facts.license,
        exporter={name: importlib.metadata.version(name) for name in packages} | {"opset": str(OPSET)},
    )


def _classes(entries: Mapping[str, Any], num_classes: int) -> tuple[ClassInfo, ...]:
    """The checkpoint's classes, or numbered ones in colours that differ."""
    if "classes" in entries:
        return tuple(ClassInfo(c["id"], c["name"], tuple(c["color"])) for c in entries["classes"])
    hues = [colorsys.hsv_to_rgb(index * 0.618 % 1, 0.6 + 0.4 * (index % 2), 0.9) for index in range(num_classes)]
    colors = [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues]
    return tuple(ClassInfo(index, f"class_{index}", color) for index, color in enumerate(colors))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's progress and its own deprecation warnings out of the command's output."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
