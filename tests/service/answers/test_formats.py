"""Every format of an answer, and its parameters, behind the HTTP interface; the class of a pixel is its brightness."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from service.model_directory.manifest import GraphInfo, Manifest
from tests.support.api import Api, Serving
from tests.support.fake_engine import FakeEngine
from tests.support.pictures import Png, Solid

pytestmark = pytest.mark.anyio


COLUMNS = (8, 48, 88)  # in the middle of the dark, the grey and the bright stripe
FORMATS = (
    *("labels", "color", "overlay", "confidence", "cutout"),
    *("contours", "labelme", "coco", "labelstudio", "npy", "json"),
)
SIZES: dict[str, Callable[[Any], tuple[int, int]]] = {
    "json": lambda it: (it["size"]["width"], it["size"]["height"]),
    "contours": lambda it: (it["size"]["width"], it["size"]["height"]),
    "labelme": lambda it: (it["imageWidth"], it["imageHeight"]),
    "coco": lambda it: (it["images"][0]["width"], it["images"][0]["height"]),
    "labelstudio": lambda it: _sides(it[0]["predictions"][0]["result"][0]),
}


def _sides(result: Any) -> tuple[int, int]:
    return result["original_width"], result["original_height"]


def at_columns(samples: NDArray[np.uint8]) -> list[Any]:
    return [samples[16, column].tolist() for column in COLUMNS]


def graded_logits(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Class 1 everywhere; how clearly, grows with the brightness: probability 1/3 for black, nearly 1 for white."""
    cells = images[:, 2::4, 2::4, 0].astype(np.float32) / 255
    logits = np.zeros((len(images), 3, *cells.shape[1:]), np.float32)
    logits[:, 1] = 10 * cells
    return logits


async def test_labels_without_palette_are_grey(api: Api, png: Png) -> None:
    response = await api.post(png(32, 96), palette="none")
    image = Image.open(io.BytesIO(response.content))
    assert image.mode == "L"
    assert at_columns(np.asarray(image)) == [0, 1, 2]


async def test_npy_is_the_label_map(api: Api, png: Png) -> None:
    response = await api.post(png(31, 96), format="npy")
    assert response.headers["content-type"] == "application/x-npy"
    labels = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert (labels.dtype, labels.shape) == (np.uint8, (31, 96))
    np.testing.assert_array_equal(labels, api.pixels(await api.post(png(31, 96))))


async def test_contours_outline_the_stripes(api: Api, png: Png) -> None:
    response = await api.post(png(32, 96), format="contours")
    assert response.headers["content-type"] == "application/geo+json"
    document = response.json()
    assert [feature["properties"]["name"] for feature in document["features"]] == ["dark", "grey", "bright"]
    assert sum(feature["properties"]["pixels"] for feature in document["features"]) == 32 * 96
    ((ring,),) = document["features"][0]["geometry"]["coordinates"]
    labels = api.pixels(await api.post(png(32, 96)))
    border = int((labels[0] == 0).sum())
    assert sorted(ring[1:]) == [[0, 0], [0, 32], [border, 0], [border, 32]]


@pytest.mark.parametrize(("level", "probability"), [(0, 1 / 3), (128, 0.9870), (255, 0.9999)])
async def test_confidence_is_the_largest_probability(
    level: int, probability: float, engine: FakeEngine, api: Api, solid: Solid
) -> None:
    engine.logits = graded_logits
    response = await api.post(solid(level), format="confidence")
    assert Image.open(io.BytesIO(response.content)).mode == "L"
    confidence = api.pixels(response)
    assert confidence.shape == (32, 64)
    assert set(confidence.ravel().tolist()) == {round(255 * probability)}
    classes = (await api.post(solid(level), format="json")).json()["classes"]
    (mean,) = [entry["confidence"] for entry in classes if entry["pixels"]]
    assert mean == pytest.approx(probability, abs=0.5 / 255 + 1e-4)


async def test_json_has_masks_that_pycocotools_reads(api: Api, png: Png) -> None:
    labels = api.pixels(await api.post(png(32, 96)))
    classes = (await api.post(png(32, 96), format="json", rle="true")).json()["classes"]
    for entry in classes:
        assert entry["rle"]["size"] == [32, 96]
        assert coco.area(entry["rle"]) == entry["pixels"] == (labels == entry["id"]).sum()
    without = (await api.post(png(32, 96), format="json")).json()["classes"]
    assert [set(entry) for entry in without] == [{"id", "name", "color", "pixels", "share", "confidence"}] * 3


async def test_alpha_weighs_the_colours(api: Api, png: Png) -> None:
    assert at_columns(api.pixels(await api.post(png(32, 96), format="overlay", alpha="0"))) == [
        [level] * 3 for level in (0, 128, 255)
    ]
    opaque = api.pixels(await api.post(png(32, 96), format="overlay", alpha="1"))
    np.testing.assert_array_equal(opaque, api.pixels(await api.post(png(32, 96), format="color")))


@pytest.mark.parametrize("classes", ["grey,bright", "1,2", " Bright , grey", "2,grey,1"])
async def test_other_classes_become_void(api: Api, png: Png, classes: str) -> None:
    async def ask(answer_format: str) -> Any:
        return await api.post(png(32, 96), format=answer_format, classes=classes)

    labels = await ask("labels")
    palette = Image.open(io.BytesIO(labels.content)).getpalette()
    assert palette is not None
    assert palette[:9] == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert palette[9:] == [0] * (768 - 9)
    assert at_columns(api.pixels(labels)) == [255, 1, 2]
    assert at_columns(np.load(io.BytesIO((await ask("npy")).content))) == [255, 1, 2]
    assert at_columns(api.pixels(await ask("color"))) == [[0, 0, 0], [40, 50, 60], [70, 80, 90]]
    assert at_columns(api.pixels(await ask("overlay"))) == [[0, 0, 0], [84, 89, 94], [163, 168, 173]]
    assert at_columns(api.pixels(await ask("confidence"))) == [0, 255, 255]
    assert [entry["name"] for entry in (await ask("json")).json()["classes"]] == ["grey", "bright"]
    assert [entry["properties"]["id"] for entry in (await ask("contours")).json()["features"]] == [1, 2]


async def test_void_keeps_the_image_in_overlays(api: Api, png: Png) -> None:
    blend = api.pixels(await api.post(png(32, 96), format="overlay", classes="dark", alpha="1"))
    assert at_columns(blend) == [[10, 20, 30], [128, 128, 128], [255, 255, 255]]


async def test_cutout_keeps_the_image_where_the_classes_are(api: Api, png: Png) -> None:
    response = await api.post(png(32, 96), format="cutout", classes="grey,bright")
    assert Image.open(io.BytesIO(response.content)).mode == "RGBA"
    pixels = api.pixels(response)
    assert at_columns(pixels) == [[0, 0, 0, 0], [128, 128, 128, 255], [255, 255, 255, 255]]
    labels = api.pixels(await api.post(png(32, 96), classes="grey,bright"))
    np.testing.assert_array_equal(pixels[..., 3] == 255, labels != 255)


async def test_cutout_without_classes_is_answered_422(api: Api, png: Png) -> None:
    response = await api.post(png(32, 96), format="cutout")
    problem = api.check_problem(response, 422, "invalid-parameter", "needs the parameter classes", "dark, grey, bright")
    assert problem["parameter"] == "classes"


async def test_contours_may_be_simplified(api: Api) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.tri(32, 64, dtype=np.uint8) * 255).save(stream, "PNG")
    exact, simpler = [
        (await api.post(stream.getvalue(), format="contours", simplify=simplify)).json()["features"]
        for simplify in ("0", "4")
    ]
    assert [it["properties"] for it in simpler] == [it["properties"] for it in exact]
    for before, after in zip(exact, simpler, strict=True):
        counts = [len(it["geometry"]["coordinates"][0][0]) for it in (before, after)]
        assert counts[1] < counts[0] / 2


async def test_classes_may_be_repeated(api: Api, png: Png) -> None:
    response = await api.http.post(
        "/segment?classes=dark&classes=2", content=png(32, 96), headers={"Content-Type": "image/png"}
    )
    assert at_columns(api.pixels(response)) == [0, 255, 2]


async def test_share_of_a_class_is_that_of_the_whole_image(api: Api, png: Png) -> None:
    (entry,) = (await api.post(png(32, 96), format="json", classes="grey")).json()["classes"]
    assert entry["share"] == entry["pixels"] / (32 * 96)
    assert 0.2 < entry["share"] < 0.5


@pytest.mark.parametrize("answer_format", FORMATS)
async def test_size_of_the_model_is_that_of_its_input(api: Api, png: Png, answer_format: str) -> None:
    response = await api.post(png(30, 150), format=answer_format, size="model", classes="dark,grey,bright")
    if answer_format in SIZES:
        assert SIZES[answer_format](response.json()) == (64, 32)
    elif answer_format == "npy":
        assert np.load(io.BytesIO(response.content)).shape == (32, 64)
    else:
        assert api.pixels(response).shape[:2] == (32, 64)


@pytest.mark.parametrize(
    ("background", "label"), [(None, 2), ("white", 2), ("Black", 0), ("808080", 1), ("#fff", 2), ("000", 0)]
)
async def test_background_is_what_the_model_sees_behind_transparency(
    api: Api, background: str | None, label: int
) -> None:
    stream = io.BytesIO()
    Image.new("RGBA", (64, 32)).save(stream, "PNG")
    parameters = {} if background is None else {"background": background}
    assert set(api.pixels(await api.post(stream.getvalue(), **parameters)).ravel().tolist()) == {label}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"classes": "grey,Moon"}, ("'Moon'", "0..2", "dark, grey, bright")),
        ({"classes": "3"}, ("'3'", "0..2")),
        ({"classes": "grey,"}, ("''", "dark, grey, bright")),
        ({"classes": ""}, ("''", "dark, grey, bright")),
        ({"background": "12345"}, ("'12345'", "hexadecimal")),
        ({"background": "rgb(1,2,3)"}, ("'rgb(1,2,3)'", "CSS name")),
        ({"background": "x" * 33}, ("32 characters",)),
        ({"alpha": "1.1"}, ("alpha is '1.1'", "less than or equal to 1")),
        ({"alpha": "-0.1"}, ("alpha is '-0.1'",)),
        ({"alpha": "nan"}, ("alpha is 'nan'",)),
        ({"palette": "grey"}, ("palette is 'grey'", "'none'")),
        ({"size": "huge"}, ("size is 'huge'", "'model'")),
        ({"rle": "maybe"}, ("rle is 'maybe'",)),
        ({"simplify": "-1"}, ("simplify is '-1'",)),
        ({"simplify": "101"}, ("simplify is '101'",)),
        ({"simplify": "nan"}, ("simplify is 'nan'",)),
        ({"name": ""}, ("name is ''",)),
        ({"name": "x" * 256}, ("255 characters",)),
    ],
)
async def test_wrong_parameters_are_answered_422(
    api: Api, solid: Solid, parameters: dict[str, str], words: tuple[str, ...]
) -> None:
    problem = api.check_problem(await api.post(solid(1), **parameters), 422, "invalid-parameter", *words)
    (name,) = parameters
    assert problem["parameter"] == name
    assert "value" in problem


async def test_format_wins_over_accept(api: Api, solid: Solid) -> None:
    headers = {"Content-Type": "image/png", "Accept": "application/json"}
    response = await api.http.post("/segment", params={"format": "labels"}, content=solid(1), headers=headers)
    assert response.headers["content-type"] == "image/png"
    response = await api.http.post("/segment", content=solid(1), headers=headers)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["vary"] == "Accept"


async def test_octet_stream_is_answered_as_such(api: Api, solid: Solid) -> None:
    headers = {"Content-Type": "image/png", "Accept": "application/octet-stream"}
    response = await api.http.post("/segment", content=solid(255), headers=headers)
    assert response.headers["content-type"] == "application/octet-stream"
    assert (np.load(io.BytesIO(response.content)) == 2).all()


async def test_nothing_acceptable_is_answered_406(api: Api, solid: Solid) -> None:
    headers = {"Content-Type": "image/png", "Accept": "text/html"}
    response = await api.http.post("/segment", content=solid(1), headers=headers)
    problem = api.check_problem(response, 406, "not-acceptable", "'text/html'", "application/json")
    assert problem["value"] == "text/html"
    assert await api.metric('ecenet_requests_total{format="none",status="406"}') == 1


async def test_json_body_gives_the_same_answer(api: Api, png: Png) -> None:
    text = base64.b64encode(png()).decode()
    for image in (text, f"data:image/png;base64,{text}"):
        response = await api.http.post("/segment", json={"image": image})
        assert response.content == (await api.post(png())).content


async def test_json_body_with_a_charset_is_read(api: Api, solid: Solid) -> None:
    content = json.dumps({"image": base64.b64encode(solid(255)).decode()})
    headers = {"Content-Type": "application/json; charset=utf-8"}
    response = await api.http.post("/segment", content=content, headers=headers)
    assert set(api.pixels(response).ravel().tolist()) == {2}


async def test_faults_of_json_bodies_are_problems(api: Api, solid: Solid) -> None:
    async def send(content: bytes) -> Any:
        return await api.http.post("/segment", content=content, headers={"Content-Type": "application/json"})

    api.check_problem(await send(b"{"), 400, "bad-request", "not JSON")
    api.check_problem(await send(b'{"image": "https://x.org/a.png"}'), 422, "invalid-parameter", "not fetched")
    api.check_problem(await send(b'{"image": "QUJD", "alpha": 1}'), 422, "invalid-parameter", "'alpha' is unknown")
    api.check_problem(await send(b'{"image": "QUJD"}'), 400, "not-an-image", "b'ABC'")


async def test_large_json_bodies_are_answered_413(api: Api) -> None:
    def body(size: int) -> dict[str, str]:
        return {"image": base64.b64encode(bytes(size)).decode()}

    limit = 4096
    api.check_problem(await api.http.post("/segment", json=body(limit)), 400, "not-an-image")
    problem = api.check_problem(await api.http.post("/segment", json=body(limit + 1)), 413, "payload-too-large", "4097")
    assert problem["limit"] == limit
    api.check_problem(await api.http.post("/segment", json=body(100 * limit)), 413, "payload-too-large", "4096")


@pytest.fixture
def labels_engine(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Its graph gives the classes of the cells, without scores."""
    logits = engine.logits
    monkeypatch.setattr(type(engine), "graph", GraphInfo("model.onnx", "0" * 64, (32, 64), output="labels"))
    engine.logits = lambda images: logits(images).argmax(1).astype(np.uint8)
    return engine


async def test_logits_in_half_precision_give_the_answers_of_float32(
    engine: FakeEngine, serving: Serving, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answers() -> list[bytes]:
        async with serving() as api:
            ways = [{}, {"format": "confidence"}, {"mode": "tile"}]
            return [(await api.post(png(64, 192), **way)).content for way in ways]

    engine.logits = lambda images: graded_logits(images).astype(np.float16).astype(np.float32)
    expected = await answers()
    engine.logits = lambda images: graded_logits(images).astype(np.float16)
    half = GraphInfo("model.onnx", "0" * 64, (32, 64), precision="fp16", logits_type="float16")
    monkeypatch.setattr(type(engine), "graph", half)
    assert await answers() == expected
    async with serving() as api:
        engine.logits = lambda images: np.full((len(images), 3, 8, 16), np.nan, np.float16)
        for way in ({}, {"mode": "tile"}):
            api.check_problem(await api.post(png(64, 192), **way), 500, "engine-failure", "NaN or infinity")


async def test_graph_of_labels_has_no_confidence(labels_engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    async with serving() as api:
        response = await api.post(solid(255), format="confidence")
        problem = api.check_problem(response, 422, "invalid-parameter", "labels without scores", "--output logits")
        assert (problem["parameter"], problem["value"]) == ("format", "confidence")
        assert set(api.pixels(await api.post(solid(255))).ravel().tolist()) == {2}
        classes = (await api.post(solid(255), format="json")).json()["classes"]
        assert [entry["confidence"] for entry in classes] == [None, None, None]
        assert "confidence" not in (await api.get("/models")).json()["models"][0]["formats"]


async def test_classes_of_a_model_with_256_have_no_void(
    engine: FakeEngine, serving: Serving, manifest: Manifest, solid: Solid, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as api:
        classes = tuple(replace(manifest.classes[0], id=number, name=str(number)) for number in range(256))
        monkeypatch.setattr(api.pipeline, "manifest", replace(manifest, classes=classes))
        api.check_problem(await api.post(solid(1), classes="3"), 422, "invalid-parameter", "all 256 ids")


async def test_name_with_a_comma_is_one_class(
    serving: Serving, manifest: Manifest, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as api:
        dark, *others = manifest.classes
        classes = (replace(dark, name="dark, black"), *others)
        monkeypatch.setattr(api.pipeline, "manifest", replace(manifest, classes=classes))
        assert at_columns(api.pixels(await api.post(png(32, 96), classes="dark, black"))) == [0, 255, 255]


async def test_classes_and_models_are_listed(api: Api) -> None:
    model = {"name": "brightness", "version": "1.2.3"}
    assert (await api.get("/labels")).json() == {
        "model": model,
        "classes": [
            {"id": 0, "name": "dark", "color": [10, 20, 30]},
            {"id": 1, "name": "grey", "color": [40, 50, 60]},
            {"id": 2, "name": "bright", "color": [70, 80, 90]},
        ],
    }
    assert (await api.get("/models")).json() == {
        "models": [
            {
                **model,
                "input_size": {"width": 64, "height": 32},
                "precision": "fp32",
                "engine": "fake",
                "num_classes": 3,
                "formats": list(FORMATS),
                "modes": ["resize", "tile"],
                "default": True,
            }
        ]
    }


async def test_lists_wait_for_the_model(engine: FakeEngine, serving: Serving) -> None:
    engine.shut()
    async with serving(warm=False) as api:
        for path in ("/labels", "/models"):
            api.check_problem(await api.get(path), 503, "not-ready")
        engine.gate.set()
