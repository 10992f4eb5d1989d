"""A running service as a predictor: each image goes to ``POST /segment`` without loss, and a label map comes back."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

TIMEOUT_S = 120.0
MAX_TRIES = 6
MAX_WAIT_S = 30.0
# What a service that is busy or starting means where it does not say when to come again.
_DEFAULT_WAIT_S = 1.0


class RemoteError(ValueError):
    """A service that cannot be reached, or whose answer is no label map; the text names the URL."""


class RemotePredictor:
    """Label maps of a running service, one image at a time."""

    def __init__(
        self, url: str, *, client: httpx.Client | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Connect at the first request.

        Args:
            url: The service, e.g. ``http://127.0.0.1:8000``; with or without ``/segment``.
            client: In place of a new one.
            sleep: Waits some seconds before another try.
        """
        self._url = url.rstrip("/").removesuffix("/segment") + "/segment"
        self._client = client or httpx.Client(timeout=TIMEOUT_S)
        self._sleep = sleep

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The label map (H, W) of an image (H, W, 3).

        A 503 is tried again when its ``Retry-After`` says, at most five times.

        Raises:
            RemoteError: No connection, an error, or something else than a label map of the image's size.
        """
        labels = self._read_labels(self._post(image, "labels").content)
        if labels.shape != image.shape[:2]:
            raise RemoteError(f"{self._url} answered {labels.shape} labels for an image of {image.shape[:2]}")
        return labels

    def class_names(self) -> tuple[str, ...]:
        """Names of the service's classes in the order of their ids, as it tells them with any image.

        Raises:
            RemoteError: See above.
        """
        response = self._post(np.zeros((32, 32, 3), np.uint8), "json")
        try:
            classes = sorted(response.json()["classes"], key=lambda entry: int(entry["id"]))
            return tuple(str(entry["name"]) for entry in classes)
        except (ValueError, TypeError, LookupError) as error:
            raise RemoteError(f"{self._url}?format=json lists no classes: {response.text[:200]!r}") from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _post(self, image: NDArray[np.uint8], answer_format: str) -> httpx.Response:
        body = _png(image)
        for _ in range(MAX_TRIES - 1):
            response = self._send(body, answer_format)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            self._sleep(self._wait_s(response))
        else:
            response = self._send(body, answer_format)
        if response.status_code != httpx.codes.OK:
            raise RemoteError(f"{self._url} answered {_problem(response)}")
        return response

    def _send(self, body: bytes, answer_format: str) -> httpx.Response:
        headers = {"content-type": "image/png"}
        try:
            return self._client.post(self._url, params={"format": answer_format}, content=body, headers=headers)
        except httpx.TimeoutException as error:
            raise RemoteError(f"{self._url} gave no answer in {TIMEOUT_S:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RemoteError(f"{self._url} cannot be reached: {error}") from error

    def _wait_s(self, response: httpx.Response) -> float:
        wait_s = _retry_after_s(response.headers.get("retry-after"))
        if wait_s > MAX_WAIT_S:
            text = f"asks to wait {wait_s:.0f} s, at most {MAX_WAIT_S:.0f} are waited"
            raise RemoteError(f"{self._url} {text}: {_problem(response)}")
        return wait_s

    def _read_labels(self, content: bytes) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.mode in {"P", "L"}:
                    return np.array(image)
                found = f"a PNG of mode {image.mode}"
        except (OSError, SyntaxError) as error:
            found = str(error)
        raise RemoteError(f"{self._url} answered no PNG of class ids: {found}")


def _png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _problem(response: httpx.Response) -> str:
    """Status and what the body says: the detail of a problem document (RFC 9457), or its first characters."""
    try:
        document: Any = response.json()
    except ValueError:
        document = None
    detail = document.get("detail") if isinstance(document, dict) else None
    return f"{response.status_code} {response.reason_phrase}: {detail or response.text[:200]}"


def _retry_after_s(header: str | None) -> float:
    """Seconds that a ``Retry-After`` asks for, which is a number or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return _DEFAULT_WAIT_S
    try:
        return max(0.0, float(int(header)))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return _DEFAULT_WAIT_S
