"""Files out of a multipart form, held in memory.

The framework's own parser writes files of more than a megabyte to disk, where a read-only container has no place for
them, and does not distinguish a truncated form from a whole one.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import BadRequest, InvalidParameter

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FIELDS = 16
# Of a boundary there are 70 at most, RFC 2046. All parameters are read on the event loop.
_MAX_CONTENT_TYPE_CHARACTERS = 1024
# The value of `filename*` (RFC 8187), outside of quoted strings: its charset and language, and the rest.
_EXTENDED_FILE_NAME = re.compile(
    rb"""(?:[^"]|"(?:[^"\\]|\\.)*")*?;[ \t]*filename\*=(?:[^;"']*'[^;"']*')?([^;"]*)""", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file of a form: the name that the client sent, and the content."""

    name: str
    content: bytes


async def read_form_files(
    content_type: str, chunks: AsyncIterable[bytes], field: str, *, max_files: int
) -> list[FormFile]:
    """Parse a form as it arrives and give the files in fields of a name, at least one and at most ``max_files``.

    Raises:
        BadRequest: No boundary, a content type that is too long, a form that cannot be parsed or is cut off, more such
            files, or too many fields.
        InvalidParameter: No such field, or one that is text.
    """
    if len(content_type) > _MAX_CONTENT_TYPE_CHARACTERS:
        raise BadRequest(
            f"the content type has {len(content_type)} characters, at most {_MAX_CONTENT_TYPE_CHARACTERS} are accepted",
            extra={"value": len(content_type), "limit": _MAX_CONTENT_TYPE_CHARACTERS, "unit": "characters"},
        )
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadRequest("the multipart form cannot be parsed: its content type has no boundary")
    form = _Form(field.encode(), max_files)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"the multipart form cannot be parsed: {error}") from error
    return form.files()


class _Form:
    """Collects the parts of a form; keeps the content of one kind of field only."""

    def __init__(self, wanted: bytes, max_files: int) -> None:
        self._wanted = wanted
        self._max_files = max_files
        self._names: list[bytes] = []
        self._files: list[tuple[bytes | None, bytes]] = []
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._file_name: bytes | None = None
        self._content = bytearray()
        self._ended = False

    def callbacks(self) -> MultipartCallbacks:
        """The callbacks of the parser."""
        return {
            "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": self._add_content,
            "on_part_end": self._end_content,
            "on_end": self._end,
        }

    def files(self) -> list[FormFile]:
        """The files in the wanted fields, once all is parsed; see ``read_form_files`` for what it raises."""
        if not self._ended:
            raise BadRequest("the multipart form is cut off: its closing boundary is missing")
        name = self._wanted.decode()
        if not self._files:
            found = [found.decode(errors="replace") for found in self._names]
            raise InvalidParameter(f"form field '{name}' is missing, found {found}; -F {name}=@photo.png sends it")
        files = []
        for file_name, content in self._files:
            if file_name is None:
                raise InvalidParameter(f"form field '{name}' is text, not a file: -F {name}=@photo.png sends a file")
            files.append(FormFile(file_name.decode(errors="replace"), content))
        return files

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"")
        if name == self._wanted:
            self._check_count()
            self._file_name = options.get(b"filename")
            if self._file_name is None:
                self._file_name = _extended_file_name(self._disposition)
        elif len(self._names) - len(self._files) >= _MAX_FIELDS - 1:
            raise BadRequest(f"the form has more than {_MAX_FIELDS} fields")
        self._names.append(name)
        self._disposition = b""

    def _check_count(self) -> None:
        if len(self._files) == self._max_files:
            expected = "one image per request" if self._max_files == 1 else f"at most {self._max_files} images"
            count = "one field" if self._max_files == 1 else f"{self._max_files} fields"
            raise BadRequest(
                f"the form has more than {count} '{self._wanted.decode()}', expected {expected}",
                extra={"limit": self._max_files},
            )

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._names[-1] == self._wanted:
            self._content += data[start:end]

    def _end_content(self) -> None:
        if self._names[-1] == self._wanted:
            # Now, and not for all in the end, which would hold every content twice.
            self._files.append((self._file_name, bytes(self._content)))
            self._content = bytearray()

    def _end(self) -> None:
        self._ended = True


def _extended_file_name(disposition: bytes) -> bytes | None:
    """The file name of `filename*`, which RFC 7578 forbids and some clients send alone; it is taken for UTF-8."""
    found = _EXTENDED_FILE_NAME.match(disposition)
    return None if found is None else unquote_to_bytes(found[1].strip())
