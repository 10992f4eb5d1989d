"""Steps of a visitor of the page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import FilePayload, Page, expect

DONE = re.compile(r"class(es)? in \d+ ms")


def payload(data: bytes, name: str = "stripes.png", kind: str = "image/png") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": data}


def choose(page: Page, data: bytes, name: str = "stripes.png") -> None:
    page.set_input_files("#file", payload(data, name))


def segmented(page: Page, data: bytes, name: str = "stripes.png") -> Page:
    """Choose an image and wait for its classes."""
    choose(page, data, name)
    expect(page.locator("#status")).to_have_text(DONE)
    return page


def drop(page: Page, files: Sequence[tuple[str, str, bytes]]) -> None:
    """Drop files: name, media type and content."""
    page.evaluate(
        """(files) => {
          const data = new DataTransfer();
          for (const [name, type, bytes] of files) {
            data.items.add(new File([new Uint8Array(bytes)], name, { type }));
          }
          window.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }""",
        [[name, kind, list(content)] for name, kind, content in files],
    )


def pixel(page: Page, x: float, y: float = 0.5) -> list[int]:
    """RGBA of the classes' canvas at shares of its width and height."""
    colour: list[int] = page.evaluate(
        """([x, y]) => {
          const canvas = document.getElementById("overlay");
          const data = canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data;
          return [...data];
        }""",
        [x, y],
    )
    return colour


def violations(page: Page) -> list[str]:
    """Violations that axe finds."""
    return [f"{item['id']}: {item['nodes'][0]['html']}" for item in Axe().run(page).response["violations"]]
