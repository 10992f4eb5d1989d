"""The list of a tensor's data in the JSON of a request: cut out before the rest is parsed."""

from __future__ import annotations

import re

from service.errors import BadRequest
from service.request.json_bounds import MAX_JSON_BYTES, Inner, cut_out, key_before

_KEY = key_before("data", "[")
_TEXT = re.compile(rb'\s*"')


def cut_data(text: bytes) -> tuple[bytes, Inner | None]:
    """Cut a request's JSON into a small text whose list ``data`` is empty, and the items of that list.

    They are None if there is no such list, and may be anything: their reader checks them.

    Raises:
        BadRequest: The list does not end, or there is a second one.
        PayloadTooLarge: The rest of the JSON is too large, see ``check_json``.
    """
    rest, items = cut_out(text, _KEY, _end_of_list, "the list 'data'")
    if items is not None and _KEY.search(rest, items.start):
        raise BadRequest("the JSON has two lists with the name 'data', expected one")
    return rest, items


def _end_of_list(text: bytes, start: int) -> int:
    """The place of the bracket that ends a list of texts in base64, or of numbers and lists of numbers.

    A text of base64 has no bracket. Behind numbers comes a text or the end of an object, and no number holds either.
    """
    if _TEXT.match(text, start, start + MAX_JSON_BYTES):
        end = text.find(b"]", start)
    else:
        ends = [place for mark in (b'"', b"}") if (place := text.find(mark, start)) >= 0]
        end = text.rfind(b"]", start, min(ends, default=len(text)))
    if end < 0:
        raise BadRequest("the list 'data' does not end, or holds other values than numbers alone or texts alone")
    return end
