"""The figure of mIoU against speed: engines take turns, each reuses what is known, and a picture is drawn."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from PIL import Image

from benchmarks.accuracy import curve
from benchmarks.accuracy.curve import ENGINES, HEADS, PLAIN_START, SIZES, draw, time_in_turn
from service.engines.base import Engine
from service.model_directory.manifest import GraphInfo


def test_engines_take_turns_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []
    seconds = iter([0, 9, 10, 12, 12, 13, 13, 17, 17, 18, 18, 21, 21, 25])

    def engine(name: str, height: int) -> Engine:
        def infer(images: np.ndarray[Any, Any]) -> None:
            assert images.shape == (1, height, 8, 3)
            turns.append(name)

        return cast(Engine, SimpleNamespace(infer=infer, graph=GraphInfo("model.onnx", "0" * 64, (height, 8))))

    assert time_in_turn([engine("a", 4), engine("b", 16)], rounds=3, clock=lambda: float(next(seconds))) == [
        3000.0,
        1000.0,
    ]
    assert turns == ["a", "b"] * 4


def test_the_committed_figures_are_of_every_engine_size_and_head() -> None:
    result = json.loads(curve.RESULT.read_text(encoding="utf-8"))
    model = [point for point in result["points"] if point["panel"] == "model"]
    assert len(model) == len(ENGINES) * len(SIZES)
    scores = {(point["size"], point["name"].split()[1]): point["miou"] for point in model}
    assert (scores["576x768", "fp32"], scores["384x512", "int8"]) == (80.26, 78.27)  # those of the model card
    assert len([point for point in result["points"] if point["panel"] == "heads"]) == len(HEADS)
    assert all(point["milliseconds"] > 0 for point in result["points"])
    assert all(list(PLAIN_START.glob(f"{name}-seed*.json")) for name in HEADS)


def test_the_figure_is_drawn_from_the_figures(tmp_path: Path) -> None:
    draw(json.loads(curve.RESULT.read_text(encoding="utf-8")), tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as found, Image.open(curve.PICTURE) as committed:
        assert found.size == committed.size
