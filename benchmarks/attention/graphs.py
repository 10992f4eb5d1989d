"""ONNX graphs to measure: the attention alone and a whole stage of the decode head, naive and fused."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import onnx
import torch
from torch import Tensor, nn

from benchmarks.attention.naive import NaiveClassExtraction, NaiveSemanticsAttention, naive_attention
from model_export.trace import OPSET
from service.model_directory.sizes import Size
from trainer.model.attention import class_masks, inverse_attention
from trainer.model.class_extraction import ClassExtraction
from trainer.model.semantics_attention import SemanticsAttention

Form = Literal["naive", "fused"]
Part = Literal["attention", "stage"]
FORMS: tuple[Form, ...] = get_args(Form)
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class Case:
    """Sizes of one measurement.

    Attributes:
        num_classes: K.
        size: (height, width) of the feature map in cells; their product is the number of queries Q.
        channels: Width C of the head.
        num_heads: Heads that share the channels.
    """

    num_classes: int
    size: Size
    channels: int = 256
    num_heads: int = 4

    @property
    def queries(self) -> int:
        """Q."""
        return self.size[0] * self.size[1]


class Attention(nn.Module):
    """Query (B, C, H, W), key and value (B, K, C) to the gathered values (B, H·W, C) and the masks (B, K, H, W)."""

    def __init__(self, form: Form, num_heads: int) -> None:
        super().__init__()
        self.form = form
        self.num_heads = num_heads

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.form == "naive":
            return naive_attention(query, key, value, self.num_heads)
        attended = inverse_attention(query.flatten(2).transpose(1, 2), key, value, self.num_heads)
        return attended, class_masks(query, key, self.num_heads)


class Stage(nn.Module):
    """The SAU and the extraction of its classes: features (B, C, H, W) and classes (B, K, C).

    Gives features (B, C, H, W), masks (B, K, H, W) and embeddings (B, K, C).
    """

    def __init__(self, form: Form, case: Case) -> None:
        super().__init__()
        naive = form == "naive"
        attention, extraction = NaiveSemanticsAttention, NaiveClassExtraction
        self.attention = (attention if naive else SemanticsAttention)(case.channels, case.num_heads)
        self.extraction = (extraction if naive else ClassExtraction)(case.num_classes, case.channels)

    def forward(self, features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attended, masks = self.attention(features, classes)
        return attended, masks, self.extraction(masks)


def export(part: Part, form: Form, case: Case) -> onnx.ModelProto:
    """The float32 graph of a part, its batch axis free; both forms have the same weights."""
    torch.manual_seed(0)
    module = Attention(form, case.num_heads) if part == "attention" else Stage(form, case)
    names = ["query", "key", "value"] if part == "attention" else ["features", "classes"]
    tokens = torch.zeros(2, case.num_classes, case.channels)
    return _export(module.eval(), names, (torch.zeros(2, case.channels, *case.size), *[tokens] * (len(names) - 1)))


def _export(module: nn.Module, names: Sequence[str], example: tuple[Tensor, ...]) -> onnx.ModelProto:
    """Export with the settings of ``model_export.trace``."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(names),
            dynamic_shapes={name: {0: torch.export.Dim("batch")} for name in names},
            verbose=False,
        )
    assert program is not None  # given whenever dynamo=True
    onnx.checker.check_model(program.model_proto)
    return program.model_proto
