"""Settings for a folder of images: sizes, lengths, and that what a user sets has the last word."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from service.imaging.codec import decode
from trainer import own_data
from trainer.checkpoint import read_entries
from trainer.datasets.reading import image_size
from trainer.own_data import input_size, own_config, run_length
from trainer.splits import open_splits
from trainer.train import main


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


def test_warm_up_and_evaluations_follow_the_epochs_that_the_user_sets(tiny_camvid: Path) -> None:
    short, long = (own_config(tiny_camvid, [f"schedule.epochs={epochs}"]) for epochs in (2, 400))
    assert (short.schedule.warmup_epochs, short.runtime.evaluate_every) == (0.1, 1)
    assert (long.schedule.warmup_epochs, long.runtime.evaluate_every) == (20, 20)
    assert own_config(tiny_camvid, ["schedule.epochs=2", "schedule.warmup_epochs=1"]).schedule.warmup_epochs == 1


def test_an_installation_without_the_bundled_checkpoint_starts_from_imagenet(
    tiny_camvid: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_data, "bundled_checkpoint", lambda: None)
    assert own_config(tiny_camvid).model.pretrained == "imagenet"
    assert "the bundled model's checkpoint is not installed; imagenet weights take its place" in caplog.text


def write_labels(root: Path, *names: str) -> None:
    """Labels of two classes, left and right, for images of train."""
    (root / "classes.json").write_text('{"classes": {"left": "#000000", "right": "#ffffff"}}')
    (root / "labels" / "train").mkdir(parents=True)
    for name in names:
        height, width = image_size(next((root / "images" / "train").glob(f"{name}.*")))
        labels = np.zeros((height, width), np.uint8)
        labels[:, width // 2 :] = 1
        Image.fromarray(labels).save(root / "labels" / "train" / f"{name}.png")


@pytest.fixture
def odd_photos(tmp_path: Path) -> Path:
    """A grey photo, one of 16 bits, one of twelve megapixels that lies on its side, and one in HEIC."""
    pillow_heif = pytest.importorskip("pillow_heif")
    folder = tmp_path / "my-data" / "images" / "train"
    folder.mkdir(parents=True)
    ramp = np.linspace(0, 255, 96).astype(np.uint8)[None].repeat(64, 0)
    Image.fromarray(ramp).save(folder / "grey.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(folder / "deep.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (4000, 3000), (90, 120, 40)).save(folder / "large.jpg", exif=exif)
    pillow_heif.from_pillow(Image.fromarray(ramp).convert("RGB")).save(folder / "phone.heic", quality=100)
    write_labels(tmp_path / "my-data", "grey", "deep", "large", "phone")
    return tmp_path / "my-data"


def test_photos_of_all_kinds_are_learned_from_as_the_service_reads_them(odd_photos: Path) -> None:
    section = own_config(odd_photos).data
    train, val = open_splits(section.model_copy(update={"repeat": None}), odd_photos)
    sizes = {path.stem: train[place].image.shape for place, (path, _) in enumerate(train.pairs)}
    height, width, _ = sizes.pop("large")
    assert (height, width) <= tuple(2 * side for side in section.input_size)  # in memory: twelve megapixels do not fit
    assert sizes == dict.fromkeys(("deep", "grey", "phone"), (64, 96, 3))
    assert {path.stem: val[place].image.shape[:2] for place, (path, _) in enumerate(val.pairs)}["large"] == (4000, 3000)
    for place, (path, _) in enumerate(val.pairs):
        served = decode(path.read_bytes(), max_image_bytes=1 << 24, max_image_pixels=1 << 24).pixels
        assert (val[place].image == served).all(), path


@pytest.mark.usefixtures("tiny_sizes")
@pytest.mark.parametrize("kept", [["deep"], ["grey", "deep", "large", "phone"]])
def test_one_image_or_a_few_of_all_kinds_train(
    kept: list[str], odd_photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in [*odd_photos.glob("images/train/*"), *odd_photos.glob("labels/train/*")]:
        if path.stem not in kept:
            path.unlink()
    settings = {
        **dict.fromkeys(("data.input_size", "data.crop_size"), "[64,64]"),
        **dict.fromkeys(("data.repeat", "schedule.batch_size"), "4"),
        **dict.fromkeys(("runtime.workers", "runtime.timed_steps"), "0"),
        **dict.fromkeys(("runtime.tensorboard", "runtime.report", "model.principal_start"), "false"),
        "model.pretrained": "none",
        "schedule.epochs": "1",
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    with caplog.at_level(logging.INFO):
        assert main([str(odd_photos), "-o", str(tmp_path / "run"), "--threads", "1", *options]) == 0
    assert f"{len(kept)} image{'s' * (len(kept) > 1)} to learn from, each seen 4 times an epoch" in caplog.text
    assert "there is no val split; the scores are those of the training images" in caplog.text
    assert read_entries(tmp_path / "run" / "best.pt")["steps_done"] == len(kept)
