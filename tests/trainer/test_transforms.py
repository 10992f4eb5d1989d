"""Augmentations move image and labels alike."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.datasets import IGNORE_INDEX, Sample
from trainer.transforms import PADDING_GREY, Augmentation, mix_classes


def blocks() -> Sample:
    """Labels in blocks, the image a grey that tells the label."""
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4).repeat(40, 0).repeat(40, 1)
    return Sample(np.repeat(labels[..., None] * 20, 3, 2), labels)


def augmentation(scale: tuple[float, float], flip: float = 0.0, jitter: float = 0.0) -> Augmentation:
    return Augmentation((120, 160), (64, 96), scale, jitter, flip)


@pytest.mark.parametrize("scale", [(0.3, 0.5), (1.0, 1.0), (1.5, 2.5)])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_labels_stay_on_their_pixels(scale: tuple[float, float], flip: float) -> None:
    for seed in range(10):
        view = augmentation(scale, flip)(blocks(), np.random.default_rng(seed))
        assert view.image.shape == (64, 96, 3)
        assert view.labels.shape == (64, 96)
        inside = view.labels != IGNORE_INDEX
        assert inside.any()
        grey = view.image[..., 0].astype(int)
        right = np.abs(grey - view.labels.astype(int) * 20) <= 12
        assert right[inside].mean() > 0.85  # but for the soft edges between blocks


@pytest.mark.parametrize("seed", range(20))
def test_the_smallest_scale_leaves_a_pixel_of_the_image(seed: int) -> None:
    """0.01 of an input of 32 pixels is a third of one."""
    tiny = Augmentation((32, 32), (32, 64), (0.01, 0.01), 0.0)
    view = tiny(blocks(), np.random.default_rng(seed))
    assert view.labels.shape == (32, 64)
    assert (view.labels != IGNORE_INDEX).sum() == 1


def test_outside_is_grey_and_ignored() -> None:
    view = augmentation((0.25, 0.25))(blocks(), np.random.default_rng(0))
    outside = view.labels == IGNORE_INDEX
    assert outside.mean() == pytest.approx(1 - 30 * 40 / (64 * 96), abs=0.02)
    assert (view.image[outside] == PADDING_GREY).all()


def test_same_seed_same_view() -> None:
    first, second = (augmentation((0.5, 2.0), 0.5, 0.4)(blocks(), np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)


def test_identity_at_scale_one_and_full_crop() -> None:
    sample = blocks()
    view = Augmentation((120, 160), (120, 160), (1.0, 1.0), 0.0, 0.0)(sample, np.random.default_rng(0))
    assert np.array_equal(view.image, sample.image)
    assert np.array_equal(view.labels, sample.labels)


def test_views_around_a_class_show_rare_ones_far_more_often() -> None:
    labels = np.zeros((200, 300), np.uint8)
    labels[100:104, 40:44] = 1
    labels[:, 299] = IGNORE_INDEX
    sample = Sample(np.zeros((200, 300, 3), np.uint8), labels)

    def share(class_views: float) -> float:
        view = Augmentation((200, 300), (40, 60), (1.0, 1.0), 0.0, class_views=class_views)
        return float(np.mean([(view(sample, np.random.default_rng(seed)).labels == 1).any() for seed in range(300)]))

    assert share(0.0) < 0.1  # a view has 4% of the image
    assert share(1.0) == pytest.approx(0.5, abs=0.1)  # one of two classes


def test_a_view_around_a_class_stays_inside_the_image_and_void_alone_is_no_class() -> None:
    labels = np.full((50, 60), IGNORE_INDEX, np.uint8)
    view = Augmentation((50, 60), (40, 40), (1.0, 1.0), 0.0, class_views=1.0)
    assert (view(Sample(np.full((50, 60, 3), 9, np.uint8), labels), np.random.default_rng(0)).image == 9).all()
    labels[0, 0] = 1  # in the corner
    for seed in range(20):
        assert (view(Sample(np.full((50, 60, 3), 9, np.uint8), labels), np.random.default_rng(seed)).image == 9).all()


@pytest.mark.parametrize(
    ("exponent", "expected"), [(2.0, [0, 16, 64, 255]), (0.5, [0, 128, 181, 255]), (1.0, [0, 64, 128, 255])]
)
def test_gamma_raises_pixel_values_to_a_power(exponent: float, expected: list[int]) -> None:
    image = np.array([0, 64, 128, 255], np.uint8).repeat(3).reshape(1, 4, 3)
    view = Augmentation((1, 4), (1, 4), (1.0, 1.0), 0.0, 0.0, gamma=(exponent, exponent))
    seen = view(Sample(image, np.zeros((1, 4), np.uint8)), np.random.default_rng(0)).image
    assert seen[0, :, 0].tolist() == expected


def test_tint_changes_each_channel_for_itself_and_stays_in_range() -> None:
    sample = Sample(np.full((1, 2, 3), 100, np.uint8), np.zeros((1, 2), np.uint8))
    sample.image[0, 1] = 250
    view = Augmentation((1, 2), (1, 2), (1.0, 1.0), 0.0, 0.0, tint=0.2)
    seen = np.array([view(sample, np.random.default_rng(seed)).image for seed in range(200)]).astype(int)
    assert (seen[:, 0, 0].min(0) < 84).all()
    assert (seen[:, 0, 0].max(0) > 116).all()
    assert seen[:, 0, 0].min() >= 80
    assert seen[:, 0, 0].max() <= 120
    assert seen[:, 0, 1].max() == 255
    assert (seen[:, 0, 0].std(1) > 0).mean() > 0.9


def test_gamma_is_drawn_from_its_range_evenly_on_both_sides_of_one() -> None:
    sample = Sample(np.full((1, 1, 3), 128, np.uint8), np.zeros((1, 1), np.uint8))
    view = Augmentation((1, 1), (1, 1), (1.0, 1.0), 0.0, 0.0, gamma=(0.5, 2.0))
    values = [int(view(sample, np.random.default_rng(seed)).image[0, 0, 0]) for seed in range(300)]
    assert 64 <= min(values) < 70
    assert 174 < max(values) <= 181
    assert np.mean([value > 128 for value in values]) == pytest.approx(0.5, abs=0.1)


def test_mixed_view_has_half_of_the_classes_of_the_one_above_and_the_rest_of_the_one_below() -> None:
    above = blocks()
    above.labels[:20] = IGNORE_INDEX
    below = Sample(np.full((120, 160, 3), 250, np.uint8), np.full((120, 160), 99, np.uint8))
    chosen = set()
    for seed in range(20):
        mixed = mix_classes(below, above, np.random.default_rng(seed))
        classes = set(np.unique(mixed.labels).tolist()) - {99}
        assert len(classes) == 6
        assert IGNORE_INDEX not in classes
        laid = np.isin(above.labels, list(classes))
        assert (mixed.labels == np.where(laid, above.labels, 99)).all()
        assert (mixed.image == np.where(laid[..., None], above.image, 250)).all()
        chosen |= classes
    assert chosen == set(range(12))


def test_view_of_void_alone_lays_nothing_over_another() -> None:
    void = Sample(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), IGNORE_INDEX, np.uint8))
    below = Sample(np.full((4, 4, 3), 9, np.uint8), np.ones((4, 4), np.uint8))
    mixed = mix_classes(below, void, np.random.default_rng(0))
    assert (mixed.image == 9).all()
    assert (mixed.labels == 1).all()
