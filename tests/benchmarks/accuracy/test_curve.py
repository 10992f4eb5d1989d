"""The figure of mIoU against speed: the committed one has every point, and a picture is drawn."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from benchmarks.accuracy import curve
from benchmarks.accuracy.curve import ENGINES, SIZES, draw
from benchmarks.accuracy.runs import FOLDER as COMPARISON
from benchmarks.accuracy.variants import HEADS


def test_the_committed_figures_are_of_every_engine_size_and_head() -> None:
    result = json.loads(curve.RESULT.read_text(encoding="utf-8"))
    model, heads = result["model"]["points"], result["heads"]["points"]
    assert len(model) == len(ENGINES) * len(SIZES)
    scores = {(point["size"], point["name"].split()[1]): point["miou"] for point in model}
    assert (scores["576x768", "fp32"], scores["384x512", "int8"]) == (80.26, 78.27)  # those of the model card
    assert len(heads) == len(HEADS)
    assert all(point["milliseconds"] > 0 for point in (*model, *heads))
    assert all(list(COMPARISON.glob(f"{name}-seed*.json")) for name in HEADS)


def test_the_figure_is_drawn_from_the_figures(tmp_path: Path) -> None:
    draw(json.loads(curve.RESULT.read_text(encoding="utf-8")), tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as found, Image.open(curve.PICTURE) as committed:
        assert found.size == committed.size
