"""Errors between a client and the service.

ClientError
├── Unreachable         no answer came: no connection, a broken one, or too late
├── Refused             the service answered with an error, mostly a problem document (RFC 9457)
└── UnexpectedAnswer    it answered 200, but not in the requested form
"""

# ruff: noqa: N818 - named after the condition, as the service's errors are
from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """A request without a result; the text names it."""


class Unreachable(ClientError):
    """No answer came."""


class UnexpectedAnswer(ClientError):
    """An answer in another form than requested."""


class ModelUnusable(ClientError):
    """The model cannot be run in this process."""


class UnreadableVideo(ClientError):
    """A file that is not a video, or a broken one."""


class UnwritableVideo(ClientError):
    """A result that cannot be written as a video."""


class UnusableOption(ClientError):
    """A value of the command line or the environment that cannot be used; the text never has a key."""


class MissingExtra(ClientError):
    """The package of an extra is not installed."""


class Refused(ClientError):
    """The service answered with an error.

    Attributes:
        status: HTTP status.
        type: Stable name of the kind of problem, e.g. ``not-an-image``; ``about:blank`` where the answer has none.
        title: The kind of problem in words.
        detail: This occurrence, with value and limit; the start of the body where it is not a problem document.
        request_id: Under which the service's log has it, if the answer says so.
        members: All members of the problem document.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        title: str,
        detail: str,
        request_id: str | None,
        members: Mapping[str, Any],
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = str(members.get("type", "about:blank"))
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.members = dict(members)
