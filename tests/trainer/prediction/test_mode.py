"""Ways of inference: what each computes, and what a network or a value does not allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from service.imaging.resize import resize_to_input
from trainer.prediction.predictor import image_predictor, torch_infer, torch_predictor
from trainer.model.ecenet import ECENet
from trainer.prediction.mode import Mode, ModeError, Network, add_probabilities, keep_ratio, mode_predictor

SIZES = [(48, 64), (37, 91), (50, 33)]


def image_of(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)


def channels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits at stride 4 that depend on place and neighbours: of three classes, one per colour."""
    cells = images[:, ::4, ::4].astype(np.float32) / 32
    return np.ascontiguousarray(cells.transpose(0, 3, 1, 2))


@pytest.fixture
def network(tiny_model: ECENet) -> Network:
    return Network(torch_infer(tiny_model.eval()), (48, 64))


def test_by_default_it_is_the_plain_predictor(network: Network, tiny_model: ECENet) -> None:
    predict, plain = mode_predictor(network, Mode()), torch_predictor(tiny_model.eval(), (48, 64))
    for size in SIZES:
        assert np.array_equal(predict(image_of(size)), plain(image_of(size)))


@pytest.mark.parametrize("flip", [False, True])
def test_one_window_over_the_image_equals_the_whole_image(flip: bool, network: Network) -> None:
    image = image_of((48, 64))
    whole, slide = (mode_predictor(network, Mode(slide=slide, flip=flip)) for slide in (False, True))
    assert np.array_equal(whole(image), slide(image))


def test_probabilities_at_image_size_are_averaged_over_scales_and_flips() -> None:
    image = image_of((37, 51))
    mode = Mode(scales=(0.5, 1.0, 1.6), flip=True)
    total = torch.zeros(3, 37, 51)
    for size in ((16, 24), (32, 48), (51, 77)):
        view = resize_to_input(image, size)
        for step in (1, -1):
            logits = channels(np.ascontiguousarray(view[None, :, ::step]))[..., ::step]
            resized = interpolate(torch.from_numpy(logits.copy()), (37, 51), mode="bilinear", align_corners=False)
            total += resized[0].softmax(0)
    labels = mode_predictor(Network(channels, (32, 48)), mode)(image)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, total.argmax(0).numpy())


@pytest.mark.parametrize("size", [(130, 7), (3, 200), (64, 64), (9, 9)])
def test_bands_of_probabilities_equal_one_resize(size: tuple[int, int]) -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 4, (5, 9, 9)).astype(np.float32))
    total = torch.ones(5, *size)
    add_probabilities(total, logits)
    expected = interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].softmax(0)
    assert (total - 1 - expected).abs().max() < 1e-5


@pytest.mark.parametrize("slide", [False, True])
def test_with_flips_a_mirrored_image_gives_the_mirrored_labels(slide: bool, network: Network) -> None:
    mode = Mode(slide=slide, crop=(32, 32) if slide else None, stride=(16, 16) if slide else None, flip=True)
    image = image_of((48, 64))
    predict = mode_predictor(network, mode)
    mirrored = predict(np.ascontiguousarray(image[:, ::-1]))
    assert np.array_equal(mirrored[:, ::-1], predict(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "mode",
    [
        Mode(slide=True, crop=(32, 32)),
        Mode(slide=True, short_side=40, scales=(0.5, 1.5), flip=True),
        Mode(short_side=45),
        Mode(scales=(0.7, 1.3)),
    ],
)
def test_labels_have_the_images_size_whatever_the_mode(size: tuple[int, int], mode: Mode, network: Network) -> None:
    labels = mode_predictor(network, mode)(image_of(size))
    assert labels.shape == size
    assert labels.max() < 11


def test_sliding_windows_are_cut_from_the_resized_image() -> None:
    shapes: list[tuple[int, ...]] = []

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        shapes.append(images.shape)
        return channels(images)

    mode = Mode(slide=True, crop=(32, 32), short_side=40, scales=(1.0, 0.5))
    mode_predictor(Network(infer, None, max_batch_size=8), mode)(image_of((60, 90)))
    assert shapes == [(4, 32, 32, 3), (1, 20, 30, 3)]  # 40x60 in four windows; 20x30 is one


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((480, 640), 640, (640, 853)),
        ((640, 480), 320, (427, 320)),
        ((100, 1000), 640, (256, 2560)),
        ((5, 5), 1, (1, 1)),
    ],
)
def test_the_ratio_is_kept_and_the_long_side_bounded(
    size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    assert keep_ratio(size, short_side) == expected


def test_the_releases_window_is_the_default() -> None:
    shapes: list[tuple[int, ...]] = []

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        shapes.append(images.shape)
        return np.stack([np.full((2, 1, 1), image[0, 0, 0], np.float32) for image in images])

    image = np.zeros((640, 1248, 3), np.uint8)
    image[:, 608:] = 1
    mode_predictor(Network(infer, None), Mode(slide=True))(image)
    assert shapes == [(2, 640, 640, 3)]  # at 0 and 608


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": (32, 32)}, "for --mode slide"),
        ({"stride": (32, 32)}, "for --mode slide"),
        ({"slide": True, "crop": (0, 32)}, "the crop is 0x32"),
        ({"slide": True, "stride": (32, -1)}, "the stride is 32x-1"),
        ({"short_side": 0}, "1 pixel or more"),
        ({"scales": ()}, r"the scales are \[\]"),
        ({"scales": (1.0, 1.0)}, "none of them twice"),
        ({"scales": (0.5, 0.0)}, "a scale is 0, expected above 0 and at most 8"),
        ({"scales": (float("nan"),)}, "a scale is nan"),
        ({"scales": (9.0,)}, "a scale is 9"),
    ],
)
def test_modes_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModeError, match=message):
        Mode(**arguments)


@pytest.mark.parametrize(
    ("network", "mode", "message"),
    [
        (
            Network(channels, (32, 64), fixed_size=True),
            Mode(scales=(0.5, 1.0)),
            "32x64 only: --short-side and --scales",
        ),
        (Network(channels, (32, 64), fixed_size=True), Mode(short_side=32), "need --mode slide"),
        (
            Network(channels, (32, 64), fixed_size=True),
            Mode(slide=True, crop=(32, 32)),
            "the crop is 32x32, but the graph takes windows of 32x64 only",
        ),
        (Network(channels, None), Mode(), "does not tell its input size"),
        (Network(channels, None), Mode(slide=True, crop=(32, 32), stride=(32, 33)), "32x33 is larger than the crop"),
    ],
)
def test_modes_that_a_network_cannot_run_are_refused(network: Network, mode: Mode, message: str) -> None:
    with pytest.raises(ModeError, match=message):
        mode_predictor(network, mode)


def test_a_graph_of_fixed_size_slides_by_its_size_and_flips() -> None:
    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert images.shape[1:] == (32, 64, 3)
        return channels(images)

    network = Network(infer, (32, 64), fixed_size=True)
    predict = mode_predictor(network, Mode(slide=True, scales=(1.0, 1.25), flip=True))
    assert predict(image_of((40, 70))).shape == (40, 70)
    with pytest.raises(ModeError, match="the image is 40x60 where windows are cut from it, smaller than the 32x64"):
        predict(image_of((40, 60)))
    flipped = mode_predictor(network, Mode(flip=True))
    assert flipped(image_of((40, 60))).shape == (40, 60)
    assert np.array_equal(
        mode_predictor(network, Mode())(image_of((9, 9))), image_predictor(infer, (32, 64))(image_of((9, 9)))
    )
