"""A running service as a predictor: each image goes to ``POST /segment`` without loss, and a label map comes back."""

from __future__ import annotations

import json
from typing import cast
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from service.client import Answer, Client, ClientError, Format, UnexpectedAnswer
from service.client.parameters import Parameters

# Parameters of the service that change its labels and not their size.
_PARAMETERS = ("background", "mode", "model")


class RemoteError(ValueError):
    """A service that cannot be reached, or whose answer is no label map; the text names the URL."""


class RemotePredictor:
    """Label maps of a running service, one image at a time."""

    def __init__(self, url: str, *, client: Client | None = None) -> None:
        """Connect at the first request.

        Args:
            url: The service, e.g. ``http://127.0.0.1:8000``, with or without ``/segment``; a query such as
                ``?mode=tile&model=street`` goes along with every image.
            client: In place of a new one.

        Raises:
            RemoteError: The query holds something else than ``background``, ``mode`` and ``model``.
        """
        base, _, query = url.partition("?")
        self._parameters = _parameters(query)
        self._client = client or Client(base)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The label map (H, W) of an image (H, W, 3).

        A service that is busy is asked again, see ``service.client.RetryPolicy``.

        Raises:
            RemoteError: No connection, an error, or something else than a label map of the image's size.
        """
        answer = self._segment(image, "labels")
        try:
            labels = answer.labels()
        except UnexpectedAnswer as error:
            raise RemoteError(str(error)) from error
        if labels.shape != image.shape[:2]:
            raise RemoteError(f"{self._client.url} answered {labels.shape} labels for an image of {image.shape[:2]}")
        return labels

    def class_names(self) -> tuple[str, ...]:
        """Names of the service's classes in the order of their ids, as it tells them with any image.

        Raises:
            RemoteError: See above.
        """
        content = self._segment(np.zeros((32, 32, 3), np.uint8), "json").content
        try:
            classes = sorted(json.loads(content)["classes"], key=lambda entry: int(entry["id"]))
            return tuple(str(entry["name"]) for entry in classes)
        except (ValueError, TypeError, LookupError) as error:
            raise RemoteError(f"{self._client.url}?format=json lists no classes: {content[:200]!r}") from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _segment(self, image: NDArray[np.uint8], answer_format: Format) -> Answer:
        try:
            return self._client.segment(image, answer_format, **self._parameters)
        except ClientError as error:
            raise RemoteError(str(error)) from error


def _parameters(query: str) -> Parameters:
    found = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(found.keys() - _PARAMETERS):
        raise RemoteError(f"{', '.join(unknown)} in the URL's query: expected {', '.join(_PARAMETERS)} only")
    return cast(Parameters, found)
