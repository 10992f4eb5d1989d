"""Use of the page in a headless Chromium against a real server."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from tests.support.page_steps import DONE, choose, pixel, segmented, violations
from tests.support.pictures import brightness_png
from tests.support.site import Site, StartSite, Visit

PHONE = {"width": 375, "height": 740}
TOUCH = {"viewport": PHONE, "has_touch": True, "is_mobile": True}
SCREENSHOTS = "ECENET_SCREENSHOTS"
TOOLS = ("labelme", "coco", "labelstudio")


def test_an_image_is_shown_with_its_classes(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = visit(site())
    expect(page.locator("#model")).to_have_text("brightness 1.2.3, 3 classes")
    expect(page.locator("#result")).to_be_hidden()
    segmented(page, stripes)
    rows = page.locator("#legend li")
    expect(rows).to_have_count(3)
    for name in ("bright", "dark", "grey"):
        expect(rows.filter(has_text=name)).to_have_count(1)
    assert [pixel(page, x) for x in (0.1, 0.5, 0.9)] == [[10, 20, 30, 255], [40, 50, 60, 255], [70, 80, 90, 255]]


def test_shares_are_those_of_the_service(site: StartSite, visit: Visit) -> None:
    start = site()
    page = segmented(visit(start), brightness_png(np.array([[0] * 3 + [128] + [255] * 4], np.uint8)))
    answer = page.request.post(
        start.url + "segment?format=json",
        multipart={
            "file": {
                "name": "x.png",
                "mimeType": "image/png",
                "buffer": brightness_png(np.array([[0] * 3 + [128] + [255] * 4], np.uint8)),
            }
        },
    )
    expected = {item["name"]: f"{100 * item['share']:.1f} %" for item in answer.json()["classes"]}
    rows = [f"{name}\n{expected[name]}" for name in ("bright", "dark", "grey")]
    expect(page.locator("#legend li")).to_have_text(rows, use_inner_text=True)
    assert len(expected) == len(rows)


def test_a_class_that_is_off_is_transparent_without_asking_again(site: StartSite, visit: Visit, stripes: bytes) -> None:
    start = site()
    page = segmented(visit(start), stripes)
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("checkbox", name="grey").uncheck()
    assert [pixel(page, x)[3] for x in (0.1, 0.5, 0.9)] == [255, 0, 255]
    page.get_by_role("button", name="None").click()
    assert [pixel(page, x)[3] for x in (0.1, 0.5, 0.9)] == [0, 0, 0]
    expect(page.locator("#downloads button").first).to_be_disabled()
    page.get_by_role("button", name="All").click()
    assert [pixel(page, x)[3] for x in (0.1, 0.5, 0.9)] == [255, 255, 255]
    expect(page.get_by_role("checkbox", name="grey")).to_be_checked()
    assert asked == []


def test_opacity_and_split_change_the_picture(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = segmented(visit(site()), stripes)
    page.get_by_role("slider", name="Opacity").fill("25")
    expect(page.locator("#overlay")).to_have_css("opacity", "0.25")
    expect(page.locator("#opacity-value")).to_have_text("25 %")
    page.get_by_role("slider", name="Before / after").fill("40")
    expect(page.locator("#after")).to_have_css("clip-path", "inset(0px 0px 0px 40%)")
    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.up()
    expect(page.get_by_role("slider", name="Before / after")).to_have_value("75")


def test_the_class_under_the_pointer_is_named(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = segmented(visit(site()), stripes)
    box = page.locator("#stage").bounding_box()
    assert box is not None
    for x, name in ((0.1, "dark"), (0.5, "grey"), (0.97, "bright")):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + 0.3 * box["height"])
        expect(page.locator("#tip")).to_be_visible()
        expect(page.locator("#tip-text")).to_have_text(name)
        expect(page.locator("#legend .pointed .name")).to_have_text(name)
        tip = page.locator("#tip").bounding_box()
        assert tip is not None
        assert box["x"] <= tip["x"]
        assert tip["x"] + tip["width"] <= box["x"] + box["width"]
    page.mouse.move(0, 0)
    expect(page.locator("#tip")).to_be_hidden()


def test_timings_and_provenance_are_those_of_the_answer(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = visit(site())
    with page.expect_response("**/segment?*") as answer:
        segmented(page, stripes)
    headers = answer.value.headers
    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", headers["server-timing"]))
    expect(page.locator("#timings")).to_be_hidden()
    model_ms = math.floor(float(stages["infer"]) + 0.5)  # as browsers round, where Python takes the even one
    expect(page.locator("#timing-line")).to_have_text(
        re.compile(rf"^\d+ ms from here, {model_ms} ms of it in the model$")
    )
    page.locator("#timing-line").click()
    for stage, milliseconds in stages.items():
        expect(page.locator(f"#timings [data-stage={stage}] td").last).to_have_text(f"{float(milliseconds):.1f} ms")
    expect(page.locator("#provenance")).to_have_text(
        f"480 x 240 pixels · model version 1.2.3 · request {headers['x-request-id']}"
    )


FILES = {
    "overlay": ("-overlay.png", b"\x89PNG"),
    "labels": ("-labels.png", b"\x89PNG"),
    "cutout": ("-cutout.png", b"\x89PNG"),
    "color": ("-color.png", b"\x89PNG"),
    "confidence": ("-confidence.png", b"\x89PNG"),
    "contours": ("-contours.geojson", b"{"),
    "labelme": (".json", b"{"),
    "coco": ("-coco.json", b"{"),
    "labelstudio": ("-labelstudio.json", b"["),
    "npy": ("-labels.npy", b"\x93NUMPY"),
    "json": ("-summary.json", b"{"),
}


def test_every_format_has_a_button_and_three_are_visible(site: StartSite, visit: Visit, stripes: bytes) -> None:
    buttons = segmented(visit(site()), stripes).locator("[data-format]")
    assert buttons.evaluate_all("all => all.map(({ dataset }) => dataset.format)") == list(FILES)
    titles = buttons.evaluate_all("all => all.map((button) => button.firstChild.textContent)")
    assert len(set(titles)) == len(titles)
    assert [button.is_visible() for button in buttons.all()] == [True] * 3 + [False] * (len(FILES) - 3)


# Chromium drops the eleventh download that a page begins within a second, so the formats are shared between two pages.
@pytest.mark.parametrize("formats", [list(FILES)[:5], list(FILES)[5:]], ids=["first", "rest"])
def test_a_format_is_downloaded_as_it_is_on_the_screen(
    site: StartSite, visit: Visit, stripes: bytes, formats: list[str]
) -> None:
    page = segmented(visit(site()), stripes)
    page.get_by_role("checkbox", name="grey").uncheck()
    page.get_by_role("slider", name="Opacity").fill("100")
    for answer_format in formats:
        suffix, magic = FILES[answer_format]
        if not page.locator(f"[data-format={answer_format}]").is_visible():
            page.get_by_text("More formats").click()
        with page.expect_download() as download, page.expect_request("**/segment?*") as request:
            page.locator(f"[data-format={answer_format}]").click()
        expect(page.locator("#status")).to_have_text(f"stripes{suffix} is saved.")
        assert download.value.suggested_filename == f"stripes{suffix}"
        assert ("simplify=1&name=stripes.png" in request.value.url) == (answer_format in TOOLS)
        assert f"format={answer_format}&" in request.value.url
        assert sorted(re.findall(r"dark|grey|bright", request.value.url)) == ["bright", "dark"]
        data = Path(download.value.path()).read_bytes()
        assert data.startswith(magic)
        if answer_format == "overlay":
            pixels = np.asarray(Image.open(io.BytesIO(data)))
            assert pixels[120, [48, 240, 430]].tolist() == [[10, 20, 30], [128, 128, 128], [70, 80, 90]]
        if answer_format == "cutout":
            assert np.asarray(Image.open(io.BytesIO(data)))[120, [48, 240, 430], 3].tolist() == [255, 0, 255]


def test_the_command_gives_what_is_on_the_screen(site: StartSite, visit: Visit, stripes: bytes) -> None:
    start = site()
    page = segmented(visit(start), stripes, "my photo's; best.png")
    page.get_by_role("checkbox", name="grey").uncheck()
    page.get_by_role("checkbox", name="dark").uncheck()
    page.get_by_role("slider", name="Opacity").fill("70")
    command = (
        """curl -F 'file=@"my photo'\\''s; best.png"' """
        f"'{start.url}segment?format=overlay&alpha=0.7&classes=bright' -o 'my photo'\\''s; best-overlay.png'"
    )
    expect(page.locator("#command")).to_have_text(command)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#status")).to_have_text("The code is copied.")
    assert page.evaluate("navigator.clipboard.readText()") == command


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_an_image_can_be_dropped_and_pasted(site: StartSite, visit: Visit, stripes: bytes, way: str) -> None:
    page = visit(site())
    expect(page.locator("#model")).to_have_text(re.compile("3 classes"))
    page.evaluate(
        """([way, bytes]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], `${way}.png`, { type: "image/png" }));
          const event = way === "drop" ? new DragEvent("drop", { dataTransfer: data, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data });
          window.dispatchEvent(event);
        }""",
        [way, list(stripes)],
    )
    expect(page.locator("#status")).to_contain_text(f"{way}.png: 3 classes")


def test_a_picture_is_taken_with_the_camera(site: StartSite, visit: Visit) -> None:
    page = visit(site(), permissions=["camera"])
    page.get_by_role("button", name="Camera").click()
    expect(page.get_by_role("dialog", name="Camera")).to_be_visible()
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator("#status")).to_contain_text("camera.jpg:")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.wait_for_function("document.getElementById('camera-video').srcObject === null")
    assert page.evaluate("document.getElementById('photo').width") > 100


def test_the_camera_is_let_go_by_escape(site: StartSite, visit: Visit) -> None:
    page = visit(site(), permissions=["camera"])
    page.get_by_role("button", name="Camera").click()
    expect(page.get_by_role("button", name="Take the picture")).to_be_focused()
    track = page.evaluate_handle("document.getElementById('camera-video').srcObject.getTracks()[0]")
    assert track.evaluate("track => track.readyState") == "live"
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.wait_for_function("track => track.readyState === 'ended'", arg=track)  # the event comes after the closing
    expect(page.locator("#result")).to_be_hidden()


def test_a_camera_that_starts_for_a_dialog_that_was_closed_is_let_go(site: StartSite, visit: Visit) -> None:
    page = visit(site(), permissions=["camera"])
    page.evaluate(
        """() => {
          window.starts = [];  // each takes the camera, and starts when it is called
          const take = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (wanted) => {
            const stream = await take(wanted);
            return new Promise((resolve, reject) =>
              window.starts.push({ stream, now: () => resolve(stream), never: () => reject(new Error("busy")) }));
          };
        }"""
    )
    for count in (1, 2, 3):
        page.get_by_role("button", name="Camera").click()
        page.wait_for_function("count => starts.length === count", arg=count)
        if count < 3:
            page.keyboard.press("Escape")
            expect(page.get_by_role("dialog")).to_be_hidden()
    page.evaluate("() => { starts[0].now(); starts[1].never(); starts[2].now(); }")
    expect(page.get_by_role("button", name="Take the picture")).to_be_focused()
    states = "starts.map(({ stream }) => stream.getTracks()[0].readyState)"
    assert page.evaluate(states) == ["ended", "live", "live"]  # of the second one the page knows nothing
    assert page.evaluate("document.getElementById('camera-video').srcObject === starts[2].stream")
    page.keyboard.press("Escape")
    page.wait_for_function("() => starts[2].stream.getTracks()[0].readyState === 'ended'")
    expect(page.locator("#error")).to_be_hidden()


def test_what_the_browser_cannot_read_the_service_shows(site: StartSite, visit: Visit, stripes: bytes) -> None:
    stream = io.BytesIO()
    Image.open(io.BytesIO(stripes)).save(stream, "TIFF")
    page = segmented(visit(site()), stream.getvalue(), "stripes.tif")
    expect(page.locator("#legend li")).to_have_count(3)
    grey = page.evaluate("[...document.getElementById('photo').getContext('2d').getImageData(240, 9, 1, 1).data]")
    assert grey == [128, 128, 128, 255]


def test_everything_works_behind_a_path_prefix(site: StartSite, visit: Visit, stripes: bytes) -> None:
    start = site(prefix="/vision/street")
    page = segmented(visit(start), stripes)
    expect(page.locator("#command")).to_contain_text(f"{start.url}segment?")
    page.get_by_role("link", name="API").click()
    expect(page.get_by_text("/segment", exact=True)).to_be_visible()
    expect(page.locator(".servers select")).to_have_value(start.url)


def test_the_keyboard_is_enough(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = visit(site())
    # Listening from the start: a dialog that opens in the moment in which its interception begins is lost.
    chosen: FilePayload = {"name": "stripes.png", "mimeType": "image/png", "buffer": stripes}
    page.on("filechooser", lambda chooser: chooser.set_files(chosen))
    expect(page.locator("#model")).to_have_text(re.compile("3 classes"))
    focused = walk(page, "Tab", 7)
    examples = ["A street", "A junction", "A road with steps"]
    assert focused == ["Skip to the image", "API", "Choose an image", "Camera", *examples]
    page.locator("#file").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text(DONE)
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#pointed")).to_have_text("grey, 52 % from the left, 50 % from the top")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#pointed")).to_have_text(re.compile("^bright, 82 %"))
    expect(page.locator("#crosshair")).to_be_visible()
    assert walk(page, "Tab", 5) == ["Opacity", "Before / after", "All", "None", "grey"]
    page.locator("#legend input").first.focus()
    page.keyboard.press("Space")
    expect(page.locator("#legend input").first).not_to_be_checked()
    page.locator("#opacity").focus()
    page.keyboard.press("End")
    expect(page.locator("#overlay")).to_have_css("opacity", "1")


def walk(page: Page, key: str, steps: int) -> list[str]:
    """Press a key some times; gives the names of what is focused after each."""
    names = []
    for _ in range(steps):
        page.keyboard.press(key)
        names.append(
            page.evaluate(
                "(document.activeElement.labels?.[0] ?? document.activeElement).innerText.trim().split('\\n')[0]"
            )
        )
    return names


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(site: StartSite, visit: Visit, stripes: bytes, scheme: str) -> None:
    start = site()
    page = visit(start, color_scheme=scheme)
    expect(page.locator("#model")).to_have_text(re.compile("3 classes"))
    assert violations(page) == []
    segmented(page, stripes)
    page.get_by_role("button", name="None").click()
    assert violations(page) == []
    choose(page, b"nothing", "nothing.png")
    expect(page.get_by_role("alert")).to_be_visible()
    assert violations(page) == []


def test_dark_is_dark(site: StartSite, visit: Visit) -> None:
    start = site()
    schemes: list[tuple[str, Callable[[int], bool]]] = [
        ("light", lambda level: level > 200),
        ("dark", lambda level: level < 40),
    ]
    for scheme, expected in schemes:
        page = visit(start, color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert all(expected(int(level)) for level in re.findall(r"\d+", colour)), colour


def test_a_phone_needs_no_scrolling_sideways(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = visit(site(), viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    segmented(page, stripes, "a-name-that-is-far-too-long-for-any-phone-that-was-ever-made-and-has-no-spaces.png")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    slider = page.locator("#opacity").bounding_box()
    assert slider is not None
    assert slider["width"] > 300
    for button in page.locator("button:visible, label.button").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 24
        assert box["x"] + box["width"] <= PHONE["width"]


def test_the_docs_load_nothing_from_elsewhere(site: StartSite, visit: Visit) -> None:
    page = visit(site(), "docs")
    expect(page.get_by_text("/segment", exact=True)).to_be_visible()
    page.get_by_text("/segment", exact=True).click()
    expect(page.get_by_text("Give every pixel of an image its class.")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {"viewport": {"width": 1280, "height": 900}}),
        ("dark", {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"}),
        ("tablet", {"viewport": {"width": 768, "height": 1000}}),
        ("phone", {**TOUCH, "device_scale_factor": 2}),
    ],
)
def test_the_street_on_the_page(bundled_site: Site, visit: Visit, name: str, options: dict[str, Any]) -> None:
    """With the bundled model; ``ECENET_SCREENSHOTS`` names a folder for the pictures that the README shows."""
    page = visit(bundled_site, **options)
    expect(page.locator("#known li").first).to_be_visible()
    save_screenshot(page, f"{name}-before")
    page.get_by_role("button", name="A street").click()
    expect(page.locator("#status")).to_contain_text("most of it Road")
    shares = dict(text.split("\n") for text in page.locator("#legend li").all_inner_texts())
    assert {"Road", "Sky", "Building", "Tree"} <= set(shares)
    assert next(iter(shares)) == "Road"
    page.get_by_role("slider", name="Before / after").fill("35")
    page.locator("#stage").hover(position={"x": 300, "y": 120})
    expect(page.locator("#tip")).to_be_visible()
    save_screenshot(page, name)
    choose(page, b"hello", "notes.png")
    expect(page.get_by_role("alert")).to_contain_text("This is not an image.")
    expect(page.locator("#picture-name")).to_have_text("street.jpg")
    save_screenshot(page, f"{name}-error")


def save_screenshot(page: Page, name: str) -> None:
    if SCREENSHOTS not in os.environ:
        return
    path = Path(os.environ[SCREENSHOTS]) / f"page-{name}.png"
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    # 256 colours are enough for a look at the page, and a fifth of the bytes.
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
