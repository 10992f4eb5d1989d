"""Ways into the page: examples, several images, videos; and what is seen before the first."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from service.http.app import create_app
from service.model_directory.manifest import Manifest
from service.settings import Settings
from tests.support.fake_engine import FakeEngine
from tests.support.page_steps import DONE, drop, payload, segmented, violations
from tests.support.pictures import Png, Solid
from tests.support.site import StartSite, Visit, serve

PHONE: dict[str, Any] = {"viewport": {"width": 375, "height": 740}, "has_touch": True, "is_mobile": True}


def test_classes_and_examples_are_there_before_an_image(site: StartSite, visit: Visit) -> None:
    page = visit(site())
    expect(page.locator("#known li")).to_have_text(["dark", "grey", "bright"])
    expect(page.locator("#known .swatch").first).to_have_css("background-color", "rgb(10, 20, 30)")
    names = ["A street", "A junction", "A road with steps"]
    expect(page.locator("#examples button")).to_have_text(names, use_inner_text=True)
    for name in names:
        page.reload()
        with page.expect_request("**/segment?*"):
            page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator("#status")).to_have_text(DONE)
        expect(page.locator("#photo")).to_have_js_property("width", 720)
        expect(page.locator("#intro")).to_be_hidden()
    expect(page.locator("#picture-name")).to_have_text("steps.jpg")


def test_a_phone_is_not_told_to_drop_or_paste(site: StartSite, visit: Visit) -> None:
    page = visit(site(), **PHONE)
    expect(page.get_by_text("Take a photo, or choose one")).to_be_visible()
    expect(page.get_by_text("Drop an image here")).to_be_hidden()
    width = 375
    for button in page.locator("#drop .buttons").locator("label.button, button").all():
        box = button.bounding_box()
        assert box is not None
        assert abs(box["x"] + box["width"] / 2 - width / 2) < width / 3
    buttons = page.locator("#drop .buttons").bounding_box()
    assert buttons is not None
    assert buttons["x"] + buttons["width"] / 2 == pytest.approx(width / 2, abs=1)


def expect_strip(page: Page, items: list[str]) -> None:
    expect(page.locator("#strip li")).to_have_text(items, use_inner_text=True)


def test_several_images_are_segmented_one_after_another(site: StartSite, visit: Visit, png: Png, solid: Solid) -> None:
    page = visit(site())
    inside, most = 0, 0

    def count(route: Route) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        response = route.fetch()
        inside -= 1
        route.fulfill(response=response)

    page.route("**/segment?*", count)
    page.set_input_files(
        "#file", [payload(png(60, 120), "a.png"), payload(solid(0), "b.png"), payload(solid(255), "c.png")]
    )
    expect(page.locator("#strip li").last).to_contain_text("segmented")
    expect_strip(page, ["a.png segmented", "b.png segmented", "c.png segmented"])
    assert most == 1
    expect(page.locator("#picture-name")).to_have_text("a.png")
    expect(page.locator("#legend li")).to_have_count(3)
    page.locator("#strip button").nth(2).click()
    expect(page.locator("#picture-name")).to_have_text("c.png")
    expect(page.locator("#legend li")).to_have_text([re.compile("bright")])  # a list: waits for one entry
    expect(page.locator("#strip [aria-current=true]")).to_contain_text("c.png")
    assert violations(page) == []
    segmented(page, png(60, 120))
    expect(page.locator("#strip")).to_be_hidden()


def test_the_picture_chosen_last_is_shown_however_long_the_others_take(site: StartSite, visit: Visit, png: Png) -> None:
    page = visit(site())
    page.set_input_files("#file", [payload(png(60, 120), name) for name in ("a.png", "b.png", "c.png")])
    expect(page.locator("#strip li").last).to_contain_text("segmented")
    page.evaluate(
        """() => {
          const open = createImageBitmap;
          const gate = new Promise((resolve) => { window.openGate = resolve; });
          window.createImageBitmap = async (blob, ...options) => {
            await (blob.name === "b.png" ? gate : null);
            return open(blob, ...options);
          };
        }"""
    )
    page.locator("#strip button").nth(1).click()
    page.locator("#strip button").nth(2).click()
    expect(page.locator("#picture-name")).to_have_text("c.png")
    page.evaluate("new Promise((resolve) => { openGate(); setTimeout(resolve, 500); })")
    expect(page.locator("#picture-name")).to_have_text("c.png")


def test_one_of_several_that_fails_stops_no_other(site: StartSite, visit: Visit, png: Png, solid: Solid) -> None:
    page = visit(site())
    drop(page, [("a.png", "image/png", png()), ("notes.png", "image/png", b"hello"), ("c.png", "image/png", solid(0))])
    expect(page.locator("#strip li").last).to_contain_text("segmented")
    expect_strip(page, ["a.png segmented", "notes.png failed", "c.png segmented"])
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("This is not an image.")
    page.locator("#strip button").nth(2).click()
    expect(page.locator("#picture-name")).to_have_text("c.png")


@pytest.mark.parametrize(("name", "kind"), [("drive.mp4", "video/mp4"), ("my drive.MOV", "")])
def test_a_video_is_told_what_to_use(site: StartSite, visit: Visit, name: str, kind: str) -> None:
    start = site()
    page = visit(start)
    expect(page.locator("#known li").first).to_be_visible()
    sent = list[str]()
    page.on("request", lambda request: sent.append(request.url))
    drop(page, [(name, kind, b"video")])
    expect(page.get_by_role("alert")).to_contain_text(f"{name} is a video.")
    quoted = f"'{name}'" if " " in name else name
    expect(page.locator("#alert-command")).to_have_text(
        f"ecenet-segment {quoted} -o out/ --format overlay --url {start.url}"
    )
    assert sent == []
    assert violations(page) == []


def test_a_background_starts_switched_off(engine: FakeEngine, manifest: Manifest, visit: Visit, png: Png) -> None:
    dark, *others = manifest.classes
    named = replace(manifest, classes=(replace(dark, name="Background"), *others))
    with serve(create_app(Settings(codec_threads=2, drain_delay_s=0), engine, named)) as start:
        page = segmented(visit(start), png(60, 120))
        expect(page.get_by_role("checkbox", name="Background")).not_to_be_checked()
        expect(page.get_by_role("checkbox", name="grey")).to_be_checked()
        expect(page.locator("#command")).to_contain_text("classes=")
        page.get_by_role("checkbox", name="Background").check()
        segmented(page, png(60, 150), "another.png")
        expect(page.get_by_role("checkbox", name="Background")).to_be_checked()
        engine.gate.set()


def test_the_code_is_shown_in_three_languages(site: StartSite, visit: Visit, png: Png) -> None:
    start = site(api_keys="page:a-long-enough-key-for-the-page")
    page = visit(start)
    page.get_by_label("API key").fill("a-long-enough-key-for-the-page")
    page.get_by_label("API key").press("Enter")
    segmented(page, png(60, 120))
    command = page.locator("#command")
    url = f"{start.url}segment?format=overlay&alpha=0.55"
    expect(command).to_contain_text(f"curl -F file=@stripes.png -H \"Authorization: Bearer $ECENET_API_KEY\" '{url}'")
    page.get_by_text("Python", exact=True).click()
    expect(command).to_contain_text("import requests")
    code = command.inner_text()
    compile(code, "page", "exec")
    assert f'requests.post("{url}", files={{"file": image}}, headers={{"Authorization"' in code
    page.get_by_text("JavaScript", exact=True).click()
    expect(command).to_contain_text(f'await fetch("{url}", {{ method: "POST", body, headers: {{ Authorization')
