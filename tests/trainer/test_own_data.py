"""Settings for a folder of images: sizes, lengths, and that what a user sets has the last word."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer import own_data
from trainer.own_data import input_size, own_config, run_length


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(3000, 4000)], (448, 576)),  # 12 megapixels
        ([(4000, 3000)] * 3, (576, 448)),
        ([(4000, 3000), (3000, 4000)], (512, 512)),  # upright and lying
        ([(360, 480)] * 9 + [(3000, 4000)], (352, 480)),
        ([(64, 64)], (128, 128)),
        ([(100, 1000)], (128, 992)),
    ],
)
def test_the_input_follows_the_images_and_has_no_more_pixels_than_they(
    sizes: list[tuple[int, int]], expected: tuple[int, int]
) -> None:
    assert input_size(sizes) == expected


@pytest.mark.parametrize(
    ("images", "epochs", "repeat"), [(1, 38, 64), (8, 38, 8), (48, 46, 2), (100, 67, 1), (5000, 9, 1), (10**6, 1, 1)]
)
def test_a_run_of_few_images_has_short_epochs_no_more(images: int, epochs: int, repeat: int) -> None:
    assert run_length(images) == (epochs, repeat)
    steps = epochs * (images * repeat // 8)
    assert images * repeat >= 64
    assert images == 10**6 or 250 <= steps <= 20_000


def test_a_folder_gives_a_configuration_and_the_user_has_the_last_word(tiny_camvid: Path) -> None:
    config = own_config(tiny_camvid, ["schedule.epochs=3"])
    assert config.data.dataset == "camvid"
    assert (config.data.input_size, config.data.crop_size) == ((128, 128), (128, 128))
    assert (config.data.repeat, config.schedule.batch_size, config.schedule.epochs) == (8, 8, 3)
    assert (config.model.pretrained, config.data.cache, config.loss.overlap) == ("bundled", True, 2.0)
    assert own_config(tiny_camvid).runtime.evaluate_every == 1


def test_an_installation_without_the_bundled_checkpoint_starts_from_imagenet(
    tiny_camvid: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_data, "bundled_checkpoint", lambda: None)
    assert own_config(tiny_camvid).model.pretrained == "imagenet"
    assert "the bundled model's checkpoint is not installed; imagenet weights take its place" in caplog.text
