"""Bodies: decompressed within bounds, cut where the header says."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadRequest, PayloadTooLarge, UnsupportedMedia
from service.inference_protocol.body import decompress, split_body

PLAIN = b'{"inputs": []}' * 40


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("", PLAIN),
        ("identity", PLAIN),
        ("gzip", gzip.compress(PLAIN, mtime=0)),
        (" GZIP", gzip.compress(PLAIN, mtime=0)),
        ("deflate", zlib.compress(PLAIN)),
    ],
)
def test_encodings_are_undone(encoding: str, body: bytes) -> None:
    assert decompress(body, encoding, len(PLAIN)) == PLAIN


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
def test_other_encodings_are_named(encoding: str) -> None:
    with pytest.raises(UnsupportedMedia, match=f"content encoding is '{encoding}', accepted are gzip, deflate"):
        decompress(PLAIN, encoding, 10_000)


def test_a_body_that_grows_beyond_the_limit_is_refused_before_it_has_grown() -> None:
    bomb = zlib.compress(bytes(1 << 26))
    with pytest.raises(PayloadTooLarge, match="the decompressed body has 1001 bytes or more, at most 1000"):
        decompress(bomb, "deflate", 1000)
    assert decompress(zlib.compress(bytes(1000)), "deflate", 1000) == bytes(1000)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (PLAIN, "not in the content encoding gzip"),
        (b"", "is cut off"),
        (gzip.compress(PLAIN, mtime=0)[:-1], "is cut off"),
        (gzip.compress(PLAIN, mtime=0) + b"xyz", "has 3 bytes after the end"),
        (zlib.compress(PLAIN), "not in the content encoding gzip"),
    ],
)
def test_broken_compression_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        decompress(body, "gzip", 10_000)


@settings(deadline=None)
@given(st.binary(max_size=80), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_decompressed_or_refused(body: bytes, encoding: str) -> None:
    try:
        plain = decompress(body, encoding, 1000)
    except (BadRequest, PayloadTooLarge):
        return
    assert zlib.decompress(body, 31 if encoding == "gzip" else 15) == plain


def test_body_is_cut_where_the_header_says() -> None:
    assert split_body(b"{}abc", None) == (b"{}abc", b"")
    assert split_body(b"{}abc", "2") == (b"{}", b"abc")
    assert split_body(b"{}", "2") == (b"{}", b"")


@pytest.mark.parametrize("length", ["", "-1", "+2", "2.0", "0x2", "two", "2 ", "\u0662", "9" * 5000, "nan"])
def test_header_that_is_no_length_is_refused(length: str) -> None:
    with pytest.raises(BadRequest, match=r"Inference-Header-Content-Length is '.*', expected the length"):
        split_body(b"{}", length)


def test_header_beyond_the_body_is_refused() -> None:
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length is 3, but the body has 2 bytes"):
        split_body(b"{}", "3")
