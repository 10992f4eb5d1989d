"""Errors on the page: refusals, a busy service, a missing key, late answers; in a headless Chromium."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.page_steps import DONE, choose, pixel, segmented
from tests.support.pictures import Solid, brightness_png
from tests.support.site import StartSite, Visit

KEY = "a-long-enough-key-for-the-page"


def refuse(page: Page, path: str, *answers: dict[str, Any]) -> list[str]:
    """Let the first requests to a path meet these answers; gives the methods of all of them."""
    waiting, seen = list(answers), list[str]()

    def handle(route: Route) -> None:
        seen.append(route.request.method)
        if waiting:
            route.fulfill(**waiting.pop(0))
        else:
            route.fallback()

    page.route(re.compile(rf"/{path}(\?|$)"), handle)
    return seen


def problem(status: int, detail: str, **headers: str) -> dict[str, Any]:
    return {
        "status": status,
        "headers": {"X-Request-ID": "abc123", **headers},
        "content_type": "application/problem+json",
        "json": {"detail": detail},
    }


def test_an_error_is_told_with_its_request(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = visit(site())
    with page.expect_response("**/segment?*") as answer:
        choose(page, stripes[:200], "half.png")
    alert = page.locator("#drop").get_by_role("alert")
    expect(alert).to_contain_text("This image is damaged or incomplete.")
    expect(page.locator("#alert-id")).to_be_hidden()
    alert.get_by_text("Details").click()
    expect(page.locator("#alert-id")).to_have_text(
        f"not-an-image · status 400 · request {answer.value.headers['x-request-id']}"
    )
    segmented(page, stripes)
    expect(page.locator("#alert")).to_be_hidden()


def test_what_is_no_image_is_told_in_words_and_the_picture_stays(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = segmented(visit(site()), stripes)
    choose(page, b"hello", "notes.png")
    alert = page.locator("#drop").get_by_role("alert")
    expect(alert).to_contain_text("This is not an image. Choose a JPEG, PNG, WebP, BMP, TIFF or GIF picture.")
    assert "hello" not in alert.inner_html()
    expect(page.locator("#picture-name")).to_have_text("stripes.png")
    assert [pixel(page, x) for x in (0.1, 0.9)] == [[10, 20, 30, 255], [70, 80, 90, 255]]


def test_a_failure_of_the_model_keeps_the_picture_with_its_name(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = visit(site())
    failure = problem(500, "the model failed on this image: out of memory")
    failure["json"] |= {"type": "engine-failure", "title": "The model failed"}
    refuse(page, "segment", failure)
    choose(page, stripes)
    expect(page.get_by_role("alert")).to_contain_text("The model failed on this image. Another image may work.")
    expect(page.locator("#picture-name")).to_have_text("stripes.png")
    expect(page.locator("#photo")).to_be_visible()
    expect(page.locator("#overlay")).to_be_hidden()


def test_too_large_images_are_refused_before_they_are_sent(site: StartSite, visit: Visit) -> None:
    page = visit(site(max_image_bytes=2048, max_image_pixels=1000))
    expect(page.locator("#limits")).to_have_text("At most 2 KiB and 0.001 million pixels.")
    sent = refuse(page, "segment")
    choose(page, bytes(3000), "big.png")
    expect(page.get_by_role("alert")).to_contain_text("The file big.png has 2.9 KiB, at most 2 KiB are accepted.")
    choose(page, brightness_png(np.zeros((1, 1), np.uint8)), "wide.png")
    expect(page.get_by_role("alert")).to_contain_text(
        "The file wide.png has 0.0016 million pixels, at most 0.001 million"
    )
    assert sent == []


def hold_clock(page: Page) -> None:
    """Let time pass only where the test says so; installed alone, the clock goes on by itself."""
    page.clock.install(time=0)
    page.clock.pause_at(3600)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_after_a_countdown(
    site: StartSite, visit: Visit, stripes: bytes, status: int
) -> None:
    page = visit(site())
    hold_clock(page)
    refusal = problem(status, "64 requests are in the service already", **{"Retry-After": "2"})
    tries = refuse(page, "segment", refusal)
    choose(page, stripes)
    expect(page.locator("#retry")).to_contain_text("64 requests are in the service already. Trying again in")
    expect(page.locator("#retry-seconds")).to_have_text("2 s")
    page.clock.run_for(1000)
    expect(page.locator("#retry-seconds")).to_have_text("1 s")
    assert tries == ["POST"]
    page.clock.run_for(1000)
    expect(page.locator("#status")).to_have_text(DONE)
    expect(page.locator("#retry")).to_be_hidden()
    assert tries == ["POST", "POST"]


def test_the_countdown_can_be_stopped(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = visit(site())
    hold_clock(page)
    tries = refuse(page, "segment", problem(503, "busy", **{"Retry-After": "60"}))
    choose(page, stripes)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("Stopped.")
    expect(page.locator("#retry")).to_be_hidden()
    assert tries == ["POST"]


def test_an_answer_that_comes_late_does_not_replace_the_newer_image(
    site: StartSite, visit: Visit, stripes: bytes, solid: Solid
) -> None:
    page = visit(site())
    hold_clock(page)
    tries = refuse(page, "segment", problem(503, "busy", **{"Retry-After": "1"}))
    choose(page, stripes, "first.png")
    expect(page.locator("#retry")).to_be_visible()
    choose(page, solid(0), "second.png")
    expect(page.locator("#status")).to_contain_text("second.png: 1 class in")
    page.clock.run_for(5000)
    expect(page.locator("#status")).to_contain_text("second.png: 1 class in")
    assert tries == ["POST", "POST"]


def test_an_example_of_a_service_that_is_gone_is_told(site: StartSite, visit: Visit) -> None:
    page = visit(site())
    page.route("**/examples/*", lambda route: route.abort())
    page.get_by_role("button", name="A street").click()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")


def test_a_key_is_asked_for_and_kept_in_the_tab_only(site: StartSite, visit: Visit, stripes: bytes) -> None:
    page = visit(site(api_keys=f"page:{KEY}"))
    expect(page.get_by_role("alert")).to_contain_text("API key")
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    field.fill("kéy of no header: €")
    field.press("Enter")
    expect(field).to_have_js_property("validity.patternMismatch", True)
    field.fill("not-the-key-of-anybody")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not valid")
    field.fill(KEY)
    field.press("Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    segmented(page, stripes)
    expect(page.locator("#command")).to_contain_text('-H "Authorization: Bearer $ECENET_API_KEY"')
    assert KEY not in page.content()
    assert page.evaluate("localStorage.length") == 0
    assert page.evaluate("document.cookie") == ""
    assert page.evaluate("Object.values(sessionStorage)") == [KEY]
