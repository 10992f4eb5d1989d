"""Choice of the answer by the ``Accept`` header."""

from __future__ import annotations

import pytest

from service.answers.negotiation import OFFERS, negotiate
from service.answers.schemas import AnswerFormat
from service.errors import NotAcceptable

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "media_type", "answer_format"),
    [
        (None, "image/png", "labels"),
        ("", "image/png", "labels"),
        ("*/*", "image/png", "labels"),
        (BROWSER, "image/png", "labels"),
        ("image/*", "image/png", "labels"),
        ("application/json", "application/json", "json"),
        ("Application/JSON; charset=utf-8", "application/json", "json"),
        ("application/*", "application/json", "json"),
        ("application/geo+json", "application/geo+json", "contours"),
        ("application/x-npy", "application/x-npy", "npy"),
        ("application/octet-stream", "application/octet-stream", "npy"),
        ("image/png;q=0.5, application/json", "application/json", "json"),
        ("image/png;q=0.5, application/json;q=0.4", "image/png", "labels"),
        ("application/json, image/png", "image/png", "labels"),
        ("*/*, image/png;q=0", "application/json", "json"),
        ("application/*;q=0.9, application/json;q=0.1, image/*;q=0.2", "application/geo+json", "contours"),
        ("image/png; q=0.001", "image/png", "labels"),
        ("image/png;q=high, application/json;q=0.1", "application/json", "json"),
        ("png, application/json;q=0.1", "application/json", "json"),
        ("image/png;q=1.000;v=2", "image/png", "labels"),
        (", ,application/json,", "application/json", "json"),
    ],
)
def test_best_offer_is_taken(accept: str | None, media_type: str, answer_format: str) -> None:
    assert negotiate(accept, OFFERS, "format") == (media_type, AnswerFormat(answer_format))


@pytest.mark.parametrize(
    "accept", ["text/html", "image/webp", "image/png;q=0", "*/*;q=0", "*/*;q=2", "nonsense", "image/png;q=0.0001"]
)
def test_nothing_acceptable_names_the_offers(accept: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        negotiate(accept, OFFERS, "format")
    assert repr(accept) in caught.value.detail
    assert "or choose with ?format=" in caught.value.detail
    assert "image/png, application/json, application/geo+json" in caught.value.detail
    assert caught.value.extra["value"] == accept
    assert caught.value.extra["accepted"][0] == "image/png"


@pytest.mark.parametrize("accept", ["," * 4097, "image/png" + ";" * 4088, "a/b;q=0.1," * 6000 + "image/png"])
def test_a_long_header_is_refused_unread(accept: str) -> None:
    with pytest.raises(NotAcceptable, match=f"has {len(accept)} characters, at most 4096") as caught:
        negotiate(accept, OFFERS, "format")
    assert len(caught.value.detail) < 200
    assert negotiate(accept[-4096:] if accept.endswith("png") else "image/png".ljust(4096, ","), OFFERS, "format")
