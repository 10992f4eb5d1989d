"""Requests whose client can hang up."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from starlette.types import Message, Scope


class Exchange:
    """One request at the level of ASGI, whose client can hang up; if not ``whole``, before the end of the body."""

    def __init__(
        self, app: FastAPI, headers: dict[str, str], body: bytes = b"", *, whole: bool = True, path: str = "/segment"
    ) -> None:
        self.status = 0
        self.received = 0
        self.left = asyncio.Event()
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._body = body
        self._whole = whole
        self._path = path

    async def run(self) -> None:
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": self._headers,
            "client": ("test", 1),
            "server": ("test", 80),
        }
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        self.received += 1
        if self.received == 1:
            return {"type": "http.request", "body": self._body, "more_body": not self._whole}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.status = message.get("status", self.status)
