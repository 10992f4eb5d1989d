"""One file out of a multipart form, held in memory.

The framework's own parser writes files of more than a megabyte to disk, where a read-only container has no place for
them, and does not tell a form that is cut off from a whole one.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import BadRequest, InvalidParameter

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FIELDS = 16


async def read_form_file(content_type: str, chunks: AsyncIterable[bytes], field: str) -> bytes:
    """Parse a form as it arrives and give the content of the file in ``field``.

    Raises:
        BadRequest: No boundary, a form that cannot be parsed or is cut off, a second such file, or too many fields.
        InvalidParameter: No such field, or one that is text.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadRequest("the multipart form cannot be parsed: its content type has no boundary")
    form = _Form(field.encode())
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"the multipart form cannot be parsed: {error}") from error
    return form.file()


class _Form:
    """Collects the parts of a form; keeps the content of one field only."""

    def __init__(self, wanted: bytes) -> None:
        self._wanted = wanted
        self._names: list[bytes] = []
        self._is_file: list[bool] = []
        self._content = bytearray()
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._ended = False

    def callbacks(self) -> MultipartCallbacks:
        """What the parser calls."""
        return {
            "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": self._add_content,
            "on_end": self._end,
        }

    def file(self) -> bytes:
        """The content of the wanted field, once all is parsed; see ``read_form_file`` for what it raises."""
        if not self._ended:
            raise BadRequest("the multipart form is cut off: its closing boundary is missing")
        name = self._wanted.decode()
        if self._wanted not in self._names:
            found = [found.decode(errors="replace") for found in self._names]
            raise InvalidParameter(f"form field '{name}' is missing; there are {found}: -F {name}=@photo.png sends it")
        if not self._is_file[self._names.index(self._wanted)]:
            raise InvalidParameter(f"form field '{name}' is text, not a file: -F {name}=@photo.png sends a file")
        return bytes(self._content)

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"")
        if name == self._wanted and name in self._names:
            raise BadRequest(f"the form has more than one field '{name.decode()}', expected one image per request")
        if len(self._names) == _MAX_FIELDS:
            raise BadRequest(f"the form has more than {_MAX_FIELDS} fields")
        self._names.append(name)
        self._is_file.append(b"filename" in options)
        self._disposition = b""

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._names[-1] == self._wanted:
            self._content += data[start:end]

    def _end(self) -> None:
        self._ended = True
