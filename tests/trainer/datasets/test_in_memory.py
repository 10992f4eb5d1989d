"""Datasets in memory: shrunk to what a view can show, and repeated where they are few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.datasets import IGNORE_INDEX, InMemory, Repeated, Sample, open_dataset
from trainer.datasets.in_memory import shrunk
from trainer.transforms import Augmentation


def test_a_shrunk_sample_keeps_the_mean_of_its_colours_and_whole_labels() -> None:
    labels = np.array([[0, 1], [2, IGNORE_INDEX]], np.uint8).repeat(4, 0).repeat(8, 1)
    image = np.repeat(labels[..., None], 3, 2)
    image[::2] = 255 - image[::2]
    small = shrunk(Sample(image, labels), (4, 8))
    assert small.labels.tolist() == np.array([[0, 1], [2, IGNORE_INDEX]]).repeat(2, 0).repeat(4, 1).tolist()
    assert small.image.shape == (4, 8, 3)
    assert np.abs(small.image.astype(float) - 127.5).max() <= 0.5
    assert shrunk(Sample(image, labels), (99, 16)).labels.shape == (8, 16)


def test_a_photo_of_twelve_megapixels_takes_what_its_largest_view_shows() -> None:
    views = Augmentation((448, 576), (352, 448), (0.6, 1.8), 0.4)
    assert views.useful_size(3000, 4000) == (807, 1037)
    assert views.useful_size(360, 480) == (360, 480)
    kept = Augmentation((448, 576), (352, 448), (0.5, 2.0), 0.4, keep_ratio=True)
    assert kept.useful_size(3000, 4000) == (896, 1195)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_views_of_a_shrunk_sample_show_the_same_part_of_the_picture(scale: float) -> None:
    ramp = np.linspace(0, 255, 400).round().astype(np.uint8)
    labels = np.broadcast_to((ramp > 99).astype(np.uint8), (300, 400)).copy()
    sample = Sample(np.repeat(np.broadcast_to(ramp, (300, 400))[..., None], 3, 2).copy(), labels)
    views = Augmentation((96, 128), (64, 96), (scale, scale), 0.0, flip=0.0)
    whole = views(sample, np.random.default_rng(3))
    small = views(shrunk(sample, views.useful_size(300, 400)), np.random.default_rng(3))
    assert np.abs(whole.image.astype(int) - small.image).max() <= 3
    assert (whole.labels == small.labels).mean() > 0.98


def test_few_images_come_several_times(tiny_camvid: Path) -> None:
    files = open_dataset("camvid", tiny_camvid, "train")
    repeated = Repeated(InMemory(files, lambda _height, _width: (24, 32)), 3)
    assert (len(repeated), len(repeated.pairs), repeated.classes) == (24, 24, files.classes)
    assert repeated.pairs[11] == files.pairs[3]
    assert repeated[11].image.shape == (24, 32, 3)
    assert (repeated.labels(11) == repeated[3].labels).all()
