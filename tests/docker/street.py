"""The picture that the tests of images send, and the answer to it."""

from __future__ import annotations

import io

import httpx
from PIL import Image

from tests.docker.containers import ROOT

STREET = (ROOT / "models/example/street.jpg").read_bytes()
Mask = tuple[tuple[int, int], bytes]


def segment(url: str) -> Mask:
    """The street's label map by the service at a URL."""
    answer = httpx.post(url + "/segment", content=STREET, headers={"content-type": "image/jpeg"}, timeout=60)
    assert answer.status_code == 200, answer.text
    return decode(answer.content)


def decode(png: bytes) -> Mask:
    """Size and class ids of a label map."""
    with Image.open(io.BytesIO(png)) as image:
        return image.size, image.tobytes()
