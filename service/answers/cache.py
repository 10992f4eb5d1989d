"""Tags that identify answers, and the latest answers by their tag in bounded memory; safe in threads."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict


def answer_tag(data: bytes, *identity: str) -> str:
    """Identify an answer by its image file and everything else that it depends on, in 32 hexadecimal digits."""
    digest = hashlib.sha256(hashlib.sha256(data).digest())
    for part in identity:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()[:32]


class AnswerCache:
    """Drops the least recently used answers when all of them exceed ``max_bytes``; 0 keeps nothing."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes of all contents."""
        return self._bytes

    def get(self, tag: str) -> bytes | None:
        """Give the content kept for a tag, which is now the latest; None if there is none."""
        with self._lock:
            if tag in self._contents:
                self._contents.move_to_end(tag)
            return self._contents.get(tag)

    def put(self, tag: str, content: bytes) -> None:
        """Keep a content, unless it alone exceeds ``max_bytes``."""
        if len(content) > self._max_bytes:
            return
        with self._lock:
            self._bytes += len(content) - len(self._contents.pop(tag, b""))
            self._contents[tag] = content
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._contents.popitem(last=False)[1])
