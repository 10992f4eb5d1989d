"""Swagger's "Try it out" at ``/docs``: with an API key, an image in and its mask on the screen."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.pictures import Solid
from tests.support.site import StartSite, Visit

KEY = "a-long-enough-key-for-the-page"


def operation(page: Page, path: str) -> Locator:
    """The block of ``POST path``, open."""
    exactly = page.locator(f'.opblock-summary-path[data-path="{path}"]')
    block = page.locator(".opblock-post").filter(has=exactly)
    block.locator(".opblock-summary").click()
    return block


def image_file(data: bytes) -> Any:
    return {"name": "grey.png", "mimeType": "image/png", "buffer": data}


@pytest.mark.parametrize("scheme", ["bearer", "header"])
def test_image_is_segmented_with_a_key(site: StartSite, visit: Visit, solid: Solid, scheme: str) -> None:
    page = visit(site(api_keys=f"docs:{KEY}"), "docs")
    segment = operation(page, "/segment")
    segment.locator("input[type=file]").set_input_files(image_file(solid(128)))
    segment.get_by_role("button", name="Execute").click()
    answer = segment.locator(".live-responses-table")
    expect(answer).to_contain_text("No valid API key")

    page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".auth-container").filter(has=page.locator("code", has_text=scheme))
    dialog.locator("input").fill(KEY)
    dialog.get_by_role("button", name="Apply").or_(dialog.locator("button.authorize")).first.click()
    page.locator(".modal-ux .close-modal").click()
    segment.get_by_role("button", name="Execute").click()
    picture = answer.locator("img")
    expect(picture).to_be_visible()
    page.wait_for_function("image => image.naturalWidth > 0", arg=picture.element_handle())
    colour = picture.evaluate(
        """(image) => {
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          return [canvas.width, canvas.height, ...context.getImageData(9, 9, 1, 1).data];
        }"""
    )
    assert colour == [64, 32, 40, 50, 60, 255]


def test_many_images_come_as_a_file(site: StartSite, visit: Visit, solid: Solid) -> None:
    page = visit(site(), "docs")
    batch = operation(page, "/segment/batch")
    batch.locator("input[type=file]").set_input_files(image_file(solid(128)))
    batch.get_by_role("button", name="Execute").click()
    expect(batch.locator(".live-responses-table")).to_contain_text("application/zip")
    with page.expect_download() as download:
        batch.get_by_role("link", name="Download file").click()
    assert download.value.path().read_bytes().startswith(b"PK")
