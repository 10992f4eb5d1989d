"""Graphs that can, and that cannot, segment an image in windows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.answers.options import available_modes, check_tiles
from service.answers.schemas import InputMode
from service.errors import InvalidParameter
from service.model_directory.manifest import GraphInfo


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"output": "labels"}, "model.onnx gives labels, which cannot be blended; use mode=resize"),
        ({"input_size": (32, 50)}, "multiples of 4: model.onnx is 32x50"),
    ],
)
def test_a_graph_that_cannot_be_tiled_is_refused(change: dict[str, object], words: str) -> None:
    graph = GraphInfo("model.onnx", "0" * 64, (32, 64))
    check_tiles(graph)
    assert available_modes(graph) == [InputMode.RESIZE, InputMode.TILE]
    unfit = replace(graph, **change)  # type: ignore[arg-type]
    assert available_modes(unfit) == [InputMode.RESIZE]
    with pytest.raises(InvalidParameter, match=words) as caught:
        check_tiles(unfit)
    assert caught.value.extra == {"parameter": "mode", "value": "tile"}
