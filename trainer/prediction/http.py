"""Prediction by a running service: each image goes to ``POST /segment`` as a lossless PNG, a label map comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from service.client import Answer, Client, ClientError, Format, UnexpectedAnswer
from service.client.options import Parameters
from trainer.prediction.mode import PredictionMode, check_labels_suffice
from trainer.prediction.model import OpenModel, stated_names

# Parameters of the service that change its labels and not their size.
_PARAMETERS = ("background", "mode", "model")


class ServiceError(ValueError):
    """A service that cannot be reached, or whose answer is not a label map; the text names the URL."""


def is_url(source: str) -> bool:
    """True for the URL of a running service, False for a path."""
    return source.lower().startswith(("http://", "https://"))


@contextmanager
def open_service(url: str, mode: PredictionMode) -> Iterator[OpenModel]:
    """Open a running service.

    Raises:
        PredictionModeError: The mode is not the service's own.
        ServiceError: The service cannot be reached, or does not list its classes.
    """
    check_labels_suffice(mode, url)
    predictor = HttpPredictor(url)
    try:
        names = predictor.class_names()
        yield OpenModel(predictor, len(names), stated_names(names))
    finally:
        predictor.close()


class HttpPredictor:
    """Label maps of a running service, one image at a time."""

    def __init__(self, url: str, *, client: Client | None = None) -> None:
        """Connect at the first request.

        Args:
            url: The service, e.g. ``http://127.0.0.1:8000``, with or without ``/segment``; a query such as
                ``?mode=tile&model=street`` goes along with every image.
            client: In place of a new one.

        Raises:
            ServiceError: The query holds another parameter than ``background``, ``mode`` and ``model``.
        """
        base, _, query = url.partition("?")
        self._parameters = _parameters(query)
        self._client = client or Client(base)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The label map (H, W) of an image (H, W, 3).

        A service that is busy is asked again, see ``service.client.RetryPolicy``.

        Raises:
            ServiceError: No connection, an error, or something else than a label map of the image's size.
        """
        answer = self._segment(image, "labels")
        try:
            labels = answer.labels()
        except UnexpectedAnswer as error:
            raise ServiceError(str(error)) from error
        if labels.shape != image.shape[:2]:
            raise ServiceError(f"{self._client.url} answered {labels.shape} labels for an image of {image.shape[:2]}")
        return labels

    def class_names(self) -> tuple[str, ...]:
        """Names of the service's classes in the order of their ids, which it lists with its answer to any image.

        Raises:
            ServiceError: See above.
        """
        content = self._segment(np.zeros((32, 32, 3), np.uint8), "json").content
        try:
            classes = sorted(json.loads(content)["classes"], key=lambda entry: int(entry["id"]))
            return tuple(str(entry["name"]) for entry in classes)
        except (ValueError, TypeError, LookupError) as error:
            raise ServiceError(f"{self._client.url}?format=json lists no classes: {content[:200]!r}") from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _segment(self, image: NDArray[np.uint8], answer_format: Format) -> Answer:
        try:
            return self._client.segment(image, answer_format, **self._parameters)
        except ClientError as error:
            raise ServiceError(str(error)) from error


def _parameters(query: str) -> Parameters:
    found = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(found.keys() - _PARAMETERS):
        raise ServiceError(f"{', '.join(unknown)} in the URL's query: expected {', '.join(_PARAMETERS)} only")
    return cast(Parameters, found)
