"""Loss of each layer by INT8 alone, and the layers that therefore stay in float32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from model_export.int8_graph import Layer

# A graph with more of its layers in float32 is INT8 by name only: it converts more than it saves.
_MAX_FLOAT_SHARE = 0.25

# Share of equal labels, 0..1, of the graph that has these layers in INT8.
EqualLabels = Callable[[Collection[Layer]], float]


class QuantizationError(RuntimeError):
    """A graph that cannot be quantised within its bound, or a model directory that it cannot be added to."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Loss of a layer: the share of labels, 0..1, that change when it alone is INT8."""

    layer: Layer
    changed_labels: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The layers that stay in float32.

    Attributes:
        floats: They, the worst first.
        equal_labels: Share of equal labels with none of them in float32, with the first, with the first two, and so on.
    """

    floats: tuple[Layer, ...]
    equal_labels: tuple[float, ...]


def rank(layers: Sequence[Layer], equal_labels: EqualLabels) -> list[Damage]:
    """The damage of each layer, the worst first."""
    damages = [Damage(layer, 1 - equal_labels([layer])) for layer in layers]
    return sorted(damages, key=lambda damage: damage.changed_labels, reverse=True)


def choose_floats(ranking: Sequence[Damage], equal_labels: EqualLabels, least: float) -> Choice:
    """Leave layers in float32, the worst first and no more than needed, until enough labels are equal.

    Args:
        ranking: All layers, the worst first.
        equal_labels: Measures a choice of INT8 layers.
        least: Share of equal labels to reach.

    Raises:
        QuantizationError: It is not reached with a quarter of the layers in float32.
    """
    layers = [damage.layer for damage in ranking]
    most = max(1, int(len(layers) * _MAX_FLOAT_SHARE))
    shares: list[float] = []
    for count in range(most + 1):
        shares.append(equal_labels(layers[count:]))
        if shares[-1] >= least:
            return Choice(tuple(layers[:count]), tuple(shares))
    raise QuantizationError(
        f"INT8 keeps {shares[-1]:.3%} of the labels with {most} of {len(layers)} layers in float32 "
        f"({shares[0]:.3%} with none), asked for {least:.3%}: calibrate on images like those that the model will see, "
        "on more of them with --count, or lower --min-equal-labels"
    )
