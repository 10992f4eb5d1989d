"""The tree of errors, each with its HTTP status; no HTTP framework is needed to raise or to read one.

    ServiceError
    ├── BadRequest                  400
    │   └── NotAnImage              400
    ├── Unauthorized                401
    ├── Forbidden                   403
    ├── UnknownModel                404
    ├── NotAcceptable               406
    ├── PayloadTooLarge             413
    ├── UnsupportedMedia            415
    │   └── UnsupportedImage        415
    ├── InvalidParameter            422
    ├── RateLimited                 429
    ├── ClientGone                  499  never sent: nobody is left to read it
    ├── EngineFailure               500
    ├── LoadFailure                 500
    ├── Unavailable                 503
    │   ├── Overloaded              503
    │   │   └── PixelsOverloaded    503
    │   ├── EngineDown              503
    │   ├── Draining                503
    │   └── NotReady                503
    └── DeadlineExceeded            504

The client receives an error as a problem document (RFC 9457), ``problem()``.
"""

# ruff: noqa: N818 - named after the condition, as the HTTP statuses are
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

PROBLEM_MEDIA_TYPE = "application/problem+json"


class ServiceError(Exception):
    """An error with an answer for the client.

    Attributes:
        status: HTTP status.
        slug: Stable name of the kind of problem; clients may compare with it.
        title: The kind of problem in a few words, the same for every error of the kind.
        detail: This occurrence, with the offending value and the limit.
        headers: HTTP headers that go with the answer.
        extra: Further members of the problem document, JSON values such as ``value`` and ``limit``.
    """

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, detail: str, *, headers: Mapping[str, str] | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers: dict[str, str] = dict(headers or {})
        self.extra: dict[str, Any] = dict(extra or {})

    def problem(self) -> dict[str, Any]:
        """The members of the problem document; ``extra`` never hides the standard ones."""
        return {**self.extra, "type": self.slug, "title": self.title, "status": self.status, "detail": self.detail}


class BadRequest(ServiceError):
    """The request cannot be understood."""

    status = 400
    slug = "bad-request"
    title = "Bad request"


class NotAnImage(BadRequest):
    """The bytes are not an image, or the image is truncated or corrupt."""

    slug = "not-an-image"
    title = "Not a readable image"


class Unauthorized(ServiceError):
    """The request has no valid API key."""

    status = 401
    slug = "unauthorized"
    title = "No valid API key"


class Forbidden(ServiceError):
    """The settings of the service forbid this request to every client."""

    status = 403
    slug = "forbidden"
    title = "Forbidden"


class UnknownModel(ServiceError):
    """A model or version that is not served."""

    status = 404
    slug = "unknown-model"
    title = "Unknown model"


class NotAcceptable(ServiceError):
    """The client accepts none of the media types that the service can answer with."""

    status = 406
    slug = "not-acceptable"
    title = "No acceptable answer"


class PayloadTooLarge(ServiceError):
    """Too many bytes or too many pixels."""

    status = 413
    slug = "payload-too-large"
    title = "Payload too large"


class UnsupportedMedia(ServiceError):
    """A content type that the service does not accept."""

    status = 415
    slug = "unsupported-media-type"
    title = "Unsupported media type"


class UnsupportedImage(UnsupportedMedia):
    """An image, but in a format that the service does not read."""

    slug = "unsupported-image"
    title = "Unsupported image format"


class InvalidParameter(ServiceError):
    """A parameter outside of its range."""

    status = 422
    slug = "invalid-parameter"
    title = "Invalid parameter"


class RateLimited(ServiceError):
    """A client sends faster than its rate limit; another process would refuse it too."""

    status = 429
    slug = "rate-limited"
    title = "Too many requests from one client"


class ClientGone(ServiceError):
    """The client left before its answer; for logs and metrics only."""

    status = 499
    slug = "client-gone"
    title = "Client closed the request"


class EngineFailure(ServiceError):
    """The model failed on a batch."""

    slug = "engine-failure"
    title = "The model failed"


class LoadFailure(ServiceError):
    """A version of a model cannot serve; the version that serves continues."""

    slug = "load-failure"
    title = "The model cannot be loaded"


class Unavailable(ServiceError):
    """The service accepts no work now. With ``retry_after_s`` the answer has a ``Retry-After`` in whole seconds."""

    status = 503
    slug = "unavailable"
    title = "Service unavailable"

    def __init__(
        self, detail: str, *, retry_after_s: float | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        headers = None if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
        super().__init__(detail, headers=headers, extra=extra)


class Overloaded(Unavailable):
    """Too many requests are in the service; a retry after ``retry_after_s`` may succeed."""

    slug = "overloaded"
    title = "Too many requests are waiting"

    def __init__(self, detail: str, *, retry_after_s: float = 1.0, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail, retry_after_s=retry_after_s, extra=extra)


class PixelsOverloaded(Overloaded):
    """The images in the service have too many pixels to accept another."""

    slug = "overloaded-pixels"
    title = "Too many pixels are waiting"


class EngineDown(Unavailable):
    """The engine does not answer, or fails on everything; a supervisor should replace the process."""

    slug = "engine-down"
    title = "The model does not answer"


class Draining(Unavailable):
    """The process is stopping and finishes the requests that it has accepted."""

    slug = "draining"
    title = "The service is stopping"


class NotReady(Unavailable):
    """The model is not loaded: not yet, or no more."""

    slug = "not-ready"
    title = "The service is not ready"


class DeadlineExceeded(ServiceError):
    """The request's time was over before its answer."""

    status = 504
    slug = "deadline-exceeded"
    title = "Deadline exceeded"


def pack_error(error: ServiceError) -> dict[str, Any]:
    """An error as JSON, for another process."""
    return {"type": type(error).__name__, "detail": error.detail, "headers": error.headers, "extra": error.extra}


def unpack_error(packed: Mapping[str, Any]) -> ServiceError:
    """The error of ``pack_error``."""
    kind: type[ServiceError] = globals()[packed["type"]]
    error = kind.__new__(kind)
    ServiceError.__init__(error, packed["detail"], headers=packed["headers"], extra=packed["extra"])
    return error
