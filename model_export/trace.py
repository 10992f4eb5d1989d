"""A module to an ONNX graph: one image size, a free batch, and the parts that have to be fused."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch

from model_export.exportable import INPUT_NAME, Exportable
from model_export.transposes import merge_transposes
from service.engines.tensorrt.attentions import count_attentions
from service.model_directory.sizes import Size
from trainer.model.backbone import fused_window_attention
from trainer.model.decode_head import NUM_STAGES

OPSET = 23
NUM_SAUS = NUM_STAGES - 1


class ExportError(RuntimeError):
    """A model that cannot be exported, or a graph without the expected form."""


def trace(exportable: Exportable, size: Size) -> onnx.ModelProto:
    """The float32 graph of a module at one image size, its batch axis free.

    Raises:
        ExportError: See ``check_graph``.
    """
    example = torch.zeros((2, *size, 3), dtype=torch.uint8)
    output = "logits" if exportable.labels_stride is None else "labels"
    with torch.no_grad(), _quiet_exporter(), fused_window_attention(exportable):
        program = torch.onnx.export(
            exportable,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[output],
            dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None  # given whenever dynamo=True
    model = program.model_proto
    merge_transposes(model)
    check_graph(model)
    return model


def check_graph(model: onnx.ModelProto) -> Counter[str]:
    """Check a graph with ONNX's checker and for its fused parts.

    Returns:
        How many nodes there are of each operator.

    Raises:
        ExportError: The number of SAUs with their own ``Attention`` is not that of the network, or a batch norm
            is left.
    """
    onnx.checker.check_model(model)
    operators = Counter(node.op_type for node in model.graph.node)
    saus = count_attentions(model).plain
    if saus != NUM_SAUS:
        raise ExportError(f"the graph has {saus} Attention nodes of SAUs, expected {NUM_SAUS}")
    if operators["BatchNormalization"]:
        raise ExportError(f"the graph has {operators['BatchNormalization']} batch norms that were not folded")
    return operators


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
