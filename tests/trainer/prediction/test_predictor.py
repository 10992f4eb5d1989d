"""A network as a predictor: the labels of each mode, and the modes that a network cannot run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from service.imaging.resize import resize_to_input
from tests.trainer.prediction.stretched import stretched_labels
from trainer.model.ecenet import ECENet
from trainer.prediction.mode import PredictionMode, PredictionModeError
from trainer.prediction.predictor import Network, add_probabilities, network_predictor
from trainer.prediction.pytorch import pytorch_infer, pytorch_network

SIZES = [(48, 64), (37, 91), (50, 33)]


def image_of(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)


def channels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits at stride 4 that depend on place and neighbours: of three classes, one per colour."""
    cells = images[:, ::4, ::4].astype(np.float32) / 32
    return np.ascontiguousarray(cells.transpose(0, 3, 1, 2))


@pytest.fixture
def network(tiny_model: ECENet) -> Network:
    return pytorch_network(tiny_model.eval(), (48, 64))


def test_by_default_it_predicts_as_the_service(network: Network, tiny_model: ECENet) -> None:
    predict, infer = network_predictor(network), pytorch_infer(tiny_model.eval())
    for size in SIZES:
        assert np.array_equal(predict(image_of(size)), stretched_labels(infer, (48, 64), image_of(size)))


@pytest.mark.parametrize("flip", [False, True])
def test_one_window_over_the_image_equals_the_whole_image(flip: bool, network: Network) -> None:
    image = image_of((48, 64))
    whole, slide = (network_predictor(network, PredictionMode(slide=slide, flip=flip)) for slide in (False, True))
    assert np.array_equal(whole(image), slide(image))


def test_probabilities_at_image_size_are_averaged_over_scales_and_flips() -> None:
    image = image_of((37, 51))
    mode = PredictionMode(scales=(0.5, 1.0, 1.6), flip=True)
    total = torch.zeros(3, 37, 51)
    for size in ((16, 24), (32, 48), (51, 77)):
        view = resize_to_input(image, size)
        for step in (1, -1):
            logits = channels(np.ascontiguousarray(view[None, :, ::step]))[..., ::step]
            resized = interpolate(torch.from_numpy(logits.copy()), (37, 51), mode="bilinear", align_corners=False)
            total += resized[0].softmax(0)
    labels = network_predictor(Network(channels, (32, 48)), mode)(image)
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
    mode = PredictionMode(slide=slide, crop=(32, 32) if slide else None, stride=(16, 16) if slide else None, flip=True)
    image = image_of((48, 64))
    predict = network_predictor(network, mode)
    mirrored = predict(np.ascontiguousarray(image[:, ::-1]))
    assert np.array_equal(mirrored[:, ::-1], predict(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "mode",
    [
        PredictionMode(slide=True, crop=(32, 32)),
        PredictionMode(slide=True, short_side=40, scales=(0.5, 1.5), flip=True),
        PredictionMode(short_side=45),
        PredictionMode(scales=(0.7, 1.3)),
    ],
)
def test_labels_have_the_images_size_whatever_the_mode(
    size: tuple[int, int], mode: PredictionMode, network: Network
) -> None:
    labels = network_predictor(network, mode)(image_of(size))
    assert labels.shape == size
    assert labels.max() < 11


def test_sliding_windows_are_cut_from_the_resized_image() -> None:
    shapes: list[tuple[int, ...]] = []

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        shapes.append(images.shape)
        return channels(images)

    mode = PredictionMode(slide=True, crop=(32, 32), short_side=40, scales=(1.0, 0.5))
    network_predictor(Network(infer, None, max_batch_size=8), mode)(image_of((60, 90)))
    assert shapes == [(4, 32, 32, 3), (1, 20, 30, 3)]  # 40x60 in four windows; 20x30 is one


def test_the_releases_window_is_the_default() -> None:
    shapes: list[tuple[int, ...]] = []

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        shapes.append(images.shape)
        return np.stack([np.full((2, 1, 1), image[0, 0, 0], np.float32) for image in images])

    image = np.zeros((640, 1248, 3), np.uint8)
    image[:, 608:] = 1
    network_predictor(Network(infer, None), PredictionMode(slide=True))(image)
    assert shapes == [(2, 640, 640, 3)]  # at 0 and 608


@pytest.mark.parametrize(
    ("network", "mode", "message"),
    [
        (
            Network(channels, (32, 64), fixed_size=True),
            PredictionMode(scales=(0.5, 1.0)),
            "32x64 only: --short-side and --scales",
        ),
        (Network(channels, (32, 64), fixed_size=True), PredictionMode(short_side=32), "need --mode slide"),
        (
            Network(channels, (32, 64), fixed_size=True),
            PredictionMode(slide=True, crop=(32, 32)),
            "the crop is 32x32, but the graph takes windows of 32x64 only",
        ),
        (Network(channels, None), PredictionMode(), "does not state its input size"),
        (
            Network(channels, None),
            PredictionMode(slide=True, crop=(32, 32), stride=(32, 33)),
            "32x33 is larger than the crop",
        ),
    ],
)
def test_modes_that_a_network_cannot_run_are_refused(network: Network, mode: PredictionMode, message: str) -> None:
    with pytest.raises(PredictionModeError, match=message):
        network_predictor(network, mode)


def test_a_graph_of_fixed_size_slides_by_its_size_and_flips() -> None:
    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert images.shape[1:] == (32, 64, 3)
        return channels(images)

    network = Network(infer, (32, 64), fixed_size=True)
    predict = network_predictor(network, PredictionMode(slide=True, scales=(1.0, 1.25), flip=True))
    assert predict(image_of((40, 70))).shape == (40, 70)
    with pytest.raises(
        PredictionModeError, match="the image is 40x60 where windows are cut from it, smaller than the 32x64"
    ):
        predict(image_of((40, 60)))
    flipped = network_predictor(network, PredictionMode(flip=True))
    assert flipped(image_of((40, 60))).shape == (40, 60)
    assert np.array_equal(
        network_predictor(network)(image_of((9, 9))), stretched_labels(infer, (32, 64), image_of((9, 9)))
    )
