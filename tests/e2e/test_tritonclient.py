"""NVIDIA's own client, ``tritonclient[http]``, against the real process."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient.http import InferAsyncRequest, InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from service.imaging.label_map import label_map
from tests.support.brightness_model import Infer
from tests.support.pictures import Png

ROOT = Path(__file__).resolve().parents[2]
MODEL = "brightness"
Segment = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def url(shared_model_dir: Path) -> Iterator[str]:
    """URL of a service with the brightness model."""
    options = ["--port", "0", "--model-dir", str(shared_model_dir), "--max-requests-in-flight", "32"]
    command = [sys.executable, "-m", "service", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().rsplit(" ", 1)[-1].strip()
        process.kill()


@pytest.fixture(scope="module")
def segment(url: str) -> Iterator[Segment]:
    """Gives the label map that ``POST /segment`` answers for an image (H, W, 3)."""
    with httpx.Client(base_url=url, headers={"content-type": "image/png"}) as http:

        def segment(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
            response = http.post("/segment", content=png_of(pixels))
            assert response.status_code == 200, response.text
            return np.asarray(Image.open(io.BytesIO(response.content)))

        yield segment


@pytest.fixture
def client(url: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(url.removeprefix("http://"), concurrency=8) as client:
        yield client


@pytest.fixture
def photos() -> list[NDArray[np.uint8]]:
    """Eight images (32, 64, 3) of noise around different levels of brightness."""
    dice = np.random.default_rng(0)
    return [dice.integers(low, low + 160, (32, 64, 3), np.uint8) for low in range(0, 96, 12)]


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def images_input(images: NDArray[np.uint8], *, binary: bool = True) -> InferInput:
    return InferInput("images", list(images.shape), "UINT8").set_data_from_numpy(images, binary_data=binary)


def files_input(*files: bytes | str, binary: bool = True) -> InferInput:
    tensor = InferInput("image_bytes", [len(files)], "BYTES")
    return tensor.set_data_from_numpy(np.array(files, np.object_), binary_data=binary)


def array(result: InferResult, name: str) -> NDArray[Any]:
    found: NDArray[Any] | None = result.as_numpy(name)
    assert found is not None
    return found


def test_health_and_metadata(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1.2.3")
    assert not client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("street")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_repository"]
    metadata = client.get_model_metadata(MODEL, "1.2.3")
    assert (metadata["platform"], metadata["versions"]) == ("onnxruntime_onnx", ["1.2.3"])
    assert metadata["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, 32, 64, 3]}
    assert metadata["outputs"][1] == {"name": "logits", "datatype": "FP32", "shape": [-1, 3, 8, 16]}


@pytest.mark.parametrize(("binary_in", "binary_out"), list(itertools.product([True, False], repeat=2)))
def test_infer_in_both_forms_both_ways(
    client: InferenceServerClient,
    photos: list[NDArray[np.uint8]],
    brightness_logits: Infer,
    binary_in: bool,
    binary_out: bool,
) -> None:
    images = np.stack(photos[:2])
    outputs = [InferRequestedOutput(name, binary_data=binary_out) for name in ("logits", "labels")]
    result = client.infer(MODEL, [images_input(images, binary=binary_in)], outputs=outputs, request_id="job-7")
    assert result.get_response()["id"] == "job-7"
    logits = brightness_logits(images)
    assert np.allclose(array(result, "logits"), logits, rtol=1e-5)
    assert np.array_equal(array(result, "labels"), [label_map(row, (32, 64)) for row in logits])


def test_labels_alone_are_the_default(client: InferenceServerClient, photos: list[NDArray[np.uint8]]) -> None:
    result = client.infer(MODEL, [images_input(photos[0][None])], model_version="1.2.3")
    assert [output["name"] for output in result.get_response()["outputs"]] == ["labels"]
    assert (array(result, "labels").shape, array(result, "labels").dtype) == ((1, 32, 64), np.uint8)
    assert result.get_response()["model_version"] == "1.2.3"


def test_files_are_decoded(client: InferenceServerClient, segment: Segment, photos: list[NDArray[np.uint8]]) -> None:
    labels = array(client.infer(MODEL, [files_input(*map(png_of, photos[:3]))]), "labels")
    assert np.array_equal(labels, [segment(image) for image in photos[:3]])


def test_files_of_any_size_give_one_tensor(client: InferenceServerClient, png: Png) -> None:
    labels = array(client.infer(MODEL, [files_input(png(9, 33), png(200, 300))]), "labels")
    assert labels.shape == (2, 32, 64)
    assert np.array_equal(labels[1][:, [5, 32, 58]], np.broadcast_to(np.array([0, 1, 2], np.uint8), (32, 3)))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_give_the_same_answer(
    client: InferenceServerClient, photos: list[NDArray[np.uint8]], algorithm: str
) -> None:
    plain = client.infer(MODEL, [images_input(photos[0][None])])
    packed = client.infer(
        MODEL,
        [images_input(photos[0][None])],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert np.array_equal(array(packed, "labels"), array(plain, "labels"))


def test_eight_at_once_get_their_own_answers(
    client: InferenceServerClient, segment: Segment, photos: list[NDArray[np.uint8]]
) -> None:
    pending: list[InferAsyncRequest] = [
        client.async_infer(MODEL, [images_input(np.stack([photo, 255 - photo]))], request_id=str(index))
        for index, photo in enumerate(photos)
    ]
    for index, (photo, request) in enumerate(zip(photos, pending, strict=True)):
        result = request.get_result()
        assert result.get_response()["id"] == str(index)
        assert np.array_equal(array(result, "labels"), [segment(photo), segment(255 - photo)])


@pytest.mark.parametrize(
    ("tensor", "model", "status", "words"),
    [
        (images_input(np.zeros((1, 32, 32, 3), np.uint8)), (MODEL,), 400, "[1, 32, 32, 3], expected [-1, 32, 64, 3]"),
        (images_input(np.zeros((33, 32, 64, 3), np.uint8)), (MODEL,), 413, "33 images, at most 32"),
        (files_input(b"no image"), (MODEL,), 400, "they start with b'no image'"),
        (files_input("bm8=", binary=False), (MODEL,), 400, "they start with b'no'"),
        (images_input(np.zeros((1, 32, 64, 3), np.uint8)), ("street",), 404, "model 'street' is unknown"),
        (images_input(np.zeros((1, 32, 64, 3), np.uint8)), (MODEL, "7"), 404, "version '7'"),
    ],
)
def test_errors_reach_the_client_in_words(
    client: InferenceServerClient, tensor: InferInput, model: tuple[str, ...], status: int, words: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model[0], [tensor], *model[1:])
    assert caught.value.status() == str(status)
    assert words in caught.value.message()
