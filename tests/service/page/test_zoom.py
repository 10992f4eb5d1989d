"""Zoom and pan of the picture, the same before and after."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.support.page_steps import segmented
from tests.support.pictures import Png
from tests.support.site import StartSite, Visit


@pytest.fixture
def page(site: StartSite, visit: Visit, png: Png) -> Page:
    return segmented(visit(site()), png(240, 480))


def box(page: Page) -> tuple[float, float, float, float]:
    found = page.locator("#stage").bounding_box()
    assert found is not None
    return found["x"], found["y"], found["width"], found["height"]


def transforms(page: Page) -> list[str]:
    return [page.locator(name).evaluate("it => it.style.transform") for name in ("#photo", "#overlay")]


def check_same(page: Page, percent: int) -> None:
    expect(page.locator("#zoom-value")).to_have_text(f"{percent} %")
    photo, overlay = transforms(page)
    assert photo == overlay


def test_buttons_zoom_and_fit(page: Page) -> None:
    expect(page.get_by_role("button", name="Zoom out")).to_be_disabled()
    page.get_by_role("button", name="Zoom in").click()
    check_same(page, 150)
    page.get_by_role("button", name="Zoom in").click()
    check_same(page, 225)
    page.get_by_role("button", name="Zoom out").click()
    check_same(page, 150)
    page.get_by_role("button", name="Whole picture").click()
    check_same(page, 100)


def test_the_wheel_zooms_around_the_pointer(page: Page) -> None:
    x, y, width, height = box(page)
    page.mouse.move(x + 0.97 * width, y + 0.5 * height)
    page.mouse.wheel(0, -400)
    check_same(page, 272)
    expect(page.locator("#tip-text")).to_have_text("bright")
    page.mouse.move(x + 0.05 * width, y + 0.5 * height)
    expect(page.locator("#tip-text")).to_have_text("grey")  # 0.05 of the stage is 0.63 of the picture
    scrolled = page.evaluate("scrollY")
    page.mouse.wheel(0, 4000)
    check_same(page, 100)
    assert page.evaluate("scrollY") == scrolled


def test_dragging_moves_the_part_that_is_seen(page: Page) -> None:
    x, y, width, height = box(page)
    page.locator("#stage").focus()
    for _ in range(3):
        page.keyboard.press("+")
    check_same(page, 338)
    page.mouse.move(x + 0.5 * width, y + 0.6 * height)
    page.mouse.down()
    page.mouse.move(x + 0.9 * width, y + 0.6 * height)
    page.mouse.move(x + 5 * width, y + 0.6 * height)
    page.mouse.up()
    check_same(page, 338)
    page.mouse.move(x + 0.9 * width, y + 0.6 * height)
    expect(page.locator("#tip-text")).to_have_text("dark")  # the left end of the picture
    page.keyboard.press("0")
    check_same(page, 100)


def test_arrow_keys_move_on_to_what_is_not_seen(page: Page) -> None:
    page.locator("#stage").focus()
    for _ in range(4):
        page.keyboard.press("+")
    for _ in range(40):
        page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#pointed")).to_have_text(re.compile("^bright, 100 % from the left"))
    crosshair = page.locator("#crosshair").bounding_box()
    x, _, width, _ = box(page)
    assert crosshair is not None
    assert x <= crosshair["x"] + crosshair["width"] / 2 <= x + width + 1
    page.keyboard.press("-")
    check_same(page, 338)


def test_two_fingers_zoom(site: StartSite, visit: Visit, png: Png) -> None:
    page = segmented(visit(site(), viewport={"width": 375, "height": 740}, has_touch=True), png(240, 480))
    x, y, width, height = box(page)
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *shares: float) -> None:
        points = [{"x": x + share * width, "y": y + height / 2, "id": index} for index, share in enumerate(shares)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.45, 0.55)
    for distance in (0.1, 0.15, 0.2):
        touch("touchMove", 0.5 - distance, 0.5 + distance)
    touch("touchEnd")
    check_same(page, 400)
    expect(page.locator("#stage")).to_have_class(re.compile("zoomed"))


def test_another_picture_begins_whole(page: Page, png: Png) -> None:
    page.get_by_role("button", name="Zoom in").click()
    segmented(page, png(120, 240), "other.png")
    check_same(page, 100)
