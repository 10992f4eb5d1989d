"""The layer report of a TensorRT engine: which kernels it has, and which attentions of the graph are fused in one.

TensorRT writes it in the same form into its verbose log (TensorRT-RTX) and with its engine inspector. Text only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Names may hold commas, e.g. ``PWN(PWN(a), b)``; the line ends with the ONNX nodes that a layer is made of.
_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+),.*, Metadata: (?P<metadata>.*)$", re.MULTILINE)
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
# ``_gemm_mha_v2_myl0_192``, ``fmha_v2``: scores, softmax and the product with the values in one kernel.
_FUSED = re.compile(r"(?:^|_)f?mha(?:_|$)")
_REPORT_START = "Layers:\n"


class LayerReportError(RuntimeError):
    """No layer report, or one that does not name the kernels: whether attention is fused cannot be known."""


class FusionError(RuntimeError):
    """Attentions of SAUs that are not fused; the text names them and says what to do."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an engine, which is one kernel or a step around kernels.

    Attributes:
        name: TensorRT's name of it.
        kind: TensorRT's ``LayerType``, e.g. ``kgen`` or ``gemm``.
        nodes: Names of the ONNX nodes that it is made of.
    """

    name: str
    kind: str
    nodes: frozenset[str]

    @property
    def is_fused_attention(self) -> bool:
        """True for one kernel of a whole attention, by the name that TensorRT gives such kernels."""
        return _FUSED.search(self.name) is not None

    @property
    def repeats_input(self) -> bool:
        """True for a step that repeats the input of a convolution in memory, as TensorRT-RTX names it."""
        return "ReshReplConcResh" in self.name


@dataclass(frozen=True, slots=True)
class AttentionNodes:
    """The attentions of a graph, as an engine is to have them.

    Attributes:
        saus: Names of the ``Attention`` nodes of SAUs, which have no mask.
        windows: Names of those of the backbone's windows, which have one.
        in_pieces: Attentions that are not one node but products around a softmax; they count as SAUs'.
    """

    saus: tuple[str, ...]
    windows: tuple[str, ...] = ()
    in_pieces: int = 0


@dataclass(frozen=True, slots=True)
class Fusion:
    """The number of attentions of a graph that are fused in an engine.

    Attributes:
        saus: Attentions of SAUs in the graph.
        fused_saus: Those that are one kernel.
        windows: Attentions of the backbone's windows in the graph.
        fused_windows: Those that are one kernel.
        unfused: Names of the ``Attention`` nodes of SAUs that are not one kernel.
        kernels: Fused attention kernels in the engine.
        layers: All layers of the engine.
    """

    saus: int
    fused_saus: int
    windows: int
    fused_windows: int
    unfused: tuple[str, ...]
    kernels: int
    layers: int

    @property
    def fault(self) -> str | None:
        """The attentions of SAUs that are not recognised as one kernel, as a clause, or None."""
        if self.fused_saus >= self.saus:
            return None
        rest = self.saus - self.fused_saus - len(self.unfused)
        names = [*self.unfused, *([f"{rest} that the graph has in pieces"] if rest else [])]
        return f"{self.fused_saus} of {self.saus} SAU attentions are fused, not {', '.join(names)}"

    def check(self, subject: str) -> None:
        """Raise unless every attention of an SAU is fused; those of windows need not be.

        Raises:
            FusionError: The text names the subject and what is not fused.
        """
        if (fault := self.fault) is not None:
            raise FusionError(
                f"{subject}: {fault}; export the checkpoint again with ecenet-export onnx --precision fp16, or leave "
                "out --require-fused and take the slower engine"
            )

    def __str__(self) -> str:
        text = f"{self.fused_saus} of {self.saus} SAU attentions fused"
        return f"{text}, {self.fused_windows} of {self.windows} window attentions fused" if self.windows else text


def is_report(message: str) -> bool:
    """True if a message of TensorRT's log is the layer report."""
    return message.startswith(_REPORT_START)


def parse_layers(report: str) -> list[Layer]:
    """The layers of a report.

    Raises:
        LayerReportError: It has none, or only their names.
    """
    layers = [
        Layer(match["name"], match["kind"], frozenset(_ONNX_NODE.findall(match["metadata"])))
        for match in _LAYER.finditer(report)
    ]
    if not layers:
        raise LayerReportError(
            f"TensorRT's layer report has no line of a layer ({report[:160]!r}), so nobody knows whether attention is "
            "fused; use TensorRT 10.14 or newer, or TensorRT-RTX 1.7"
        )
    return layers


def count_fused(layers: Iterable[Layer], attentions: AttentionNodes) -> Fusion:
    """Find the attentions of a graph among the fused kernels of an engine, by the names of their nodes."""
    layers = list(layers)
    kernels = [layer for layer in layers if layer.is_fused_attention]
    fused = frozenset[str]().union(*(kernel.nodes for kernel in kernels))
    known = {*attentions.saus, *attentions.windows}
    of_pieces = sum(kernel.nodes.isdisjoint(known) for kernel in kernels)
    unfused = tuple(name for name in attentions.saus if name not in fused)
    return Fusion(
        saus=len(attentions.saus) + attentions.in_pieces,
        fused_saus=len(attentions.saus) - len(unfused) + min(of_pieces, attentions.in_pieces),
        windows=len(attentions.windows),
        fused_windows=sum(name in fused for name in attentions.windows),
        unfused=unfused,
        kernels=len(kernels),
        layers=len(layers),
    )
