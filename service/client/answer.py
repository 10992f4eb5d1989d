"""Answers of the service, as arrays and typed documents."""

from __future__ import annotations

import io
import json
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ValidationError

from service.answers.schemas import AnswerFormat, ClassContours, SegmentationSummary
from service.client.errors import UnexpectedAnswer
from service.client.options import Format

Document = TypeVar("Document", bound=BaseModel)
_JSON = ((b"{", b"["), (b"}", b"]"))
# First and last bytes of a body, by its media type.
_FORMS: Mapping[str, tuple[bytes | tuple[bytes, ...], bytes | tuple[bytes, ...]]] = {
    "image/png": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
    "application/x-npy": (b"\x93NUMPY", b""),
}
# All that NumPy and Pillow raise on broken files; the last is Pillow's on more pixels than it accepts.
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    OverflowError,
    MemoryError,
    tokenize.TokenError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A segmentation; the requested format decides which method reads it.

    Attributes:
        url: Where it comes from.
        content: The body: a PNG, a NumPy file, or JSON.
        media_type: Of the body.
        request_id: Under which the service's log has the request.
        model_version: Model and version that answered, if the service says so.
        server_timing: Milliseconds of each stage inside the service.
    """

    url: str
    content: bytes
    media_type: str
    request_id: str | None
    model_version: str | None
    server_timing: dict[str, float]

    def check(self, answer_format: Format) -> None:
        """Check by its first and last bytes that the body is whole and in a format, before it is kept.

        Raises:
            UnexpectedAnswer: It is something else, such as the page of a proxy.
        """
        begins, ends = _FORMS.get(AnswerFormat(answer_format).media_type, _JSON)
        if not (self.content.startswith(begins) and self.content.endswith(ends)):
            found = f"{len(self.content)} bytes of type {self.media_type!r} that start with {self.content[:8]!r}"
            raise self._unexpected(answer_format, found)

    def labels(self) -> NDArray[np.uint8]:
        """(H, W) uint8, class ids, of ``labels`` or ``npy``.

        Raises:
            UnexpectedAnswer: Something else was asked for or answered.
        """
        array, form = self._array()
        if form not in {"npy", "P", "L"}:
            raise self._unexpected("PNG of class ids", f"a PNG of mode {form}")
        return array

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of ``color`` and ``overlay``, (H, W, 4) RGBA of ``cutout``, (H, W) of ``confidence``.

        Raises:
            UnexpectedAnswer: Something else was asked for or answered.
        """
        array, form = self._array()
        if form not in {"RGB", "RGBA", "L"}:
            raise self._unexpected("picture", f"a file of mode {form}")
        return array

    def summary(self) -> SegmentationSummary:
        """The document of ``json``.

        Raises:
            UnexpectedAnswer: Something else was asked for or answered.
        """
        return self._document(SegmentationSummary)

    def contours(self) -> ClassContours:
        """The document of ``contours``.

        Raises:
            UnexpectedAnswer: Something else was asked for or answered.
        """
        return self._document(ClassContours)

    def document(self) -> Any:
        """The JSON of any format that is JSON, such as ``coco``.

        Raises:
            UnexpectedAnswer: Something else was asked for or answered.
        """
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError) as error:
            raise self._unexpected("JSON", str(error)) from error

    def _array(self) -> tuple[NDArray[np.uint8], str]:
        """The samples, and how they were stored: ``npy``, or the PNG's mode."""
        if self.content.startswith(b"\x93NUMPY"):
            return self._numpy_file(), "npy"
        try:
            with Image.open(io.BytesIO(self.content), formats=["PNG"]) as image:
                return np.array(image), image.mode
        except _BROKEN as error:
            raise self._unexpected("PNG", str(error)) from error

    def _numpy_file(self) -> NDArray[np.uint8]:
        try:
            array = np.load(io.BytesIO(self.content), allow_pickle=False)
        except _BROKEN as error:
            raise self._unexpected("NumPy file", str(error)) from error
        if array.dtype != np.uint8 or array.ndim != 2:
            raise self._unexpected("label map", f"{array.dtype} {array.shape}, expected uint8 (H, W)")
        return np.asarray(array)

    def _document(self, kind: type[Document]) -> Document:
        try:
            return kind.model_validate_json(self.content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the body"
            raise self._unexpected(kind.__name__, f"{place}: {first['msg']}") from error

    def _unexpected(self, expected: str, found: str) -> UnexpectedAnswer:
        return UnexpectedAnswer(f"{self.url} answered no {expected}: {found}")


def parse_server_timing(header: str) -> dict[str, float]:
    """Milliseconds by stage of a ``Server-Timing`` header; entries without a number are left out."""
    entries = (entry.partition(";dur=") for entry in header.split(","))
    return {stage.strip(): float(number) for stage, _, number in entries if _is_number(number)}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
