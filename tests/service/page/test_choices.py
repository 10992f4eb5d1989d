"""Choices on the page: the model, and windows for large images."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.support.page_steps import DONE, payload, segmented, violations
from tests.support.pictures import Png
from tests.support.site import Site, StartSite, Visit

# The fake engine's window is 64 x 32.
WINDOWS = re.compile(r"\b100 windows\b")


@pytest.fixture
def stripes(png: Png) -> bytes:
    """Dark, grey and bright, of the same width, larger than the model's input."""
    return png(240, 480)


def test_windows_are_offered_for_images_that_are_larger_than_the_input(
    site: StartSite, visit: Visit, png: Png, stripes: bytes
) -> None:
    page = visit(site())
    segmented(page, png(30, 63))
    expect(page.locator("#choices")).to_be_hidden()
    segmented(page, stripes)
    box = page.get_by_role("checkbox", name="Full detail, in windows")
    expect(box).not_to_be_checked()
    note = page.locator("#tile-note")
    expect(note).to_contain_text("The model sees this image of 480 x 240 shrunk to 64 x 32.")
    expect(note).to_contain_text("takes about 100 times as long")
    expect(page.get_by_role("combobox", name="Model")).to_be_hidden()
    assert violations(page) == []


def test_windows_that_the_page_announces_are_those_of_the_service(
    site: StartSite, visit: Visit, stripes: bytes
) -> None:
    start = site(max_request_timeout_s=45)
    page = segmented(visit(start), stripes)
    with page.expect_request("**/segment?*") as asked:
        page.get_by_role("checkbox", name="Full detail").check()
    assert "mode=tile" in asked.value.url
    assert asked.value.headers["x-request-timeout-ms"] == "45000"
    expect(page.locator("#provenance")).to_contain_text(WINDOWS)
    expect(page.locator("#status")).to_have_text(DONE)
    answer = page.request.post(start.url + "segment?format=json&mode=tile", multipart={"file": payload(stripes)}).json()
    assert answer["processing"]["windows"] == 100


def test_downloads_and_command_are_of_what_is_chosen(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = segmented(visit(site(max_request_timeout_s=45)), stripes)
    expect(page.locator("#command")).not_to_contain_text("mode=")
    page.get_by_role("checkbox", name="Full detail").check()
    expect(page.locator("#command")).to_contain_text("mode=tile")
    expect(page.locator("#command")).to_contain_text("-H 'X-Request-Timeout-Ms: 45000'")
    with page.expect_request("**/segment?*") as asked, page.expect_download():
        page.locator("[data-format=labels]").click()
    assert "mode=tile" in asked.value.url
    page.get_by_role("checkbox", name="Full detail").uncheck()
    expect(page.locator("#command")).not_to_contain_text("mode=")
    expect(page.locator("#provenance")).not_to_contain_text("windows")


def test_the_offer_of_windows_does_not_move_the_picture(
    site: StartSite, visit: Visit, stripes: bytes, png: Png
) -> None:
    start = site()
    for viewport in ({"width": 1280, "height": 900}, {"width": 375, "height": 740}):
        page = segmented(visit(start, viewport=viewport), png(30, 60))
        before = page.locator("#stage").bounding_box()
        segmented(page, stripes)
        expect(page.locator("#tile-note")).to_be_visible()
        after = page.locator("#stage").bounding_box()
        assert before is not None
        assert after is not None
        assert before["y"] == after["y"]


def test_time_that_does_not_suffice_is_told(site: StartSite, visit: Visit, stripes: bytes) -> None:
    start = site()
    page = segmented(visit(start), stripes)
    start.app.state.runtime.models.serving().queue.seconds_per_image = 60.0
    page.get_by_role("checkbox", name="Full detail").check()
    expect(page.get_by_role("alert")).to_contain_text("windows take about")
    page.get_by_role("checkbox", name="Full detail").uncheck()
    expect(page.locator("#status")).to_have_text(DONE)
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_another_model_shows_its_classes(site_of_two: Site, visit: Visit, stripes: bytes, scheme: str) -> None:
    page = segmented(visit(site_of_two, color_scheme=scheme), stripes)
    choice = page.get_by_label("Model", exact=True)
    expect(choice).to_have_value("brightness")
    expect(choice.locator("option")).to_have_text(["brightness 1.2.3, 3 classes", "other 2.0, 3 classes"])
    assert violations(page) == []
    with page.expect_request("**/segment?*") as asked:
        choice.select_option("other")
    assert "model=other" in asked.value.url
    expect(page.locator("#model")).to_have_text("other 2.0, 3 classes")
    expect(page.locator("#legend")).to_contain_text("thgirb")
    expect(page.locator("#provenance")).to_contain_text("model version 2.0")
    expect(page.locator("#command")).to_contain_text("model=other")
    choice.select_option("brightness")
    expect(page.locator("#legend")).to_contain_text("bright")
    expect(page.locator("#command")).not_to_contain_text("model=")


def test_choices_fit_on_a_phone(site_of_two: Site, visit: Visit, stripes: bytes) -> None:
    page = segmented(visit(site_of_two, viewport={"width": 320, "height": 600}), stripes)
    page.locator("#model-choice option").first.evaluate("option => { option.text = 'a-long-name-'.repeat(9); }")
    expect(page.get_by_role("checkbox", name="Full detail")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_model_is_chosen_before_there_is_an_image(site_of_two: Site, visit: Visit, stripes: bytes) -> None:
    page = visit(site_of_two)
    expect(page.locator("#known")).to_contain_text("bright")
    page.get_by_label("Model", exact=True).select_option("other")
    expect(page.locator("#known")).to_contain_text("thgirb")
    with page.expect_request("**/segment?*") as asked:
        segmented(page, stripes)
    assert "model=other" in asked.value.url
