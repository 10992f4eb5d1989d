"""Images in another light: each change does what its name says, and a model is scored on all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy.light import CHANGES, main, scores
from trainer.datasets import CamVid

GREYS = np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5, 1).repeat(3, 2)


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """One val image of 40x48: class 0 is dark on the left, class 1 bright on the right."""
    labels = np.zeros((40, 48), np.uint8)
    labels[:, 24:] = 1
    for folder, pixels in (("val", np.repeat(60 + 140 * labels[..., None], 3, 2)), ("valannot", labels)):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "0016E5_1.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("as it is", 100.0),
        ("dusk, gamma 1.8", 255 * (100 / 255) ** 1.8),
        ("glare, gamma 0.6", 255 * (100 / 255) ** 0.6),
        ("45% of the light", 45.0),
        ("red +15%, blue -15%", (115.0, 100.0, 85.0)),
    ],
)
def test_curves_are_those_of_their_names(name: str, expected: float | tuple[float, ...]) -> None:
    changed = CHANGES[name](np.full((2, 3, 3), 100, np.uint8))
    assert changed.dtype == np.uint8
    np.testing.assert_allclose(changed, np.broadcast_to(expected, (2, 3, 3)), atol=0.5)


def test_blur_and_noise_change_every_image_alike_each_time() -> None:
    for name in CHANGES:
        before = GREYS.copy()
        np.testing.assert_array_equal(CHANGES[name](GREYS), CHANGES[name](GREYS))
        np.testing.assert_array_equal(GREYS, before)
    noisy = CHANGES["noise, sigma 12 of 255"](np.full((100, 100, 3), 128, np.uint8)).astype(float)
    assert noisy.std() == pytest.approx(12, rel=0.05)
    assert np.ptp(CHANGES["blurred, sigma 1 pixel"](GREYS).astype(int)) < np.ptp(GREYS)


def test_a_model_that_goes_by_brightness_fails_in_the_dark(camvid: Path) -> None:
    found = scores(lambda image: (image[..., 1] > 100).astype(np.uint8), CamVid(camvid, "val"))
    assert found.keys() == CHANGES.keys()
    assert found["as it is"] == found["red +15%, blue -15%"] == 1
    assert found["45% of the light"] == pytest.approx(0.25)  # all is class 0: half of its union, and none of the other


def test_what_cannot_be_opened_is_told(camvid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["absent.pt", "--data", str(camvid)]) == 1
    assert "light: absent.pt does not exist" in capsys.readouterr().err
