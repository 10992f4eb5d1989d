"""Memory of requests of many images. Admission bounds the images at work, this bounds those that arrive and wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Overloaded


class ManyImagesMemory:
    """Bounds the bytes of all requests together, images and answers, and the number of requests.

    Attributes:
        held: Bytes held.
        requests: Requests inside.
        images: Their images that have no answer yet.
    """

    def __init__(self, max_bytes: int, max_requests: int) -> None:
        """Start empty.

        Args:
            max_bytes: Most bytes of all requests together; one request alone may have more.
            max_requests: Most requests at once.
        """
        self.held = 0
        self.requests = 0
        self.images = 0
        self.max_bytes = max_bytes
        self._max_requests = max_requests

    @property
    def is_full(self) -> bool:
        """True while answers should be sent before more are made."""
        return self.held >= self.max_bytes

    @contextmanager
    def room(self, seconds_per_image: float) -> Iterator[Room]:
        """Reserve room for one request until the end of the block.

        Args:
            seconds_per_image: Of the model; a refusal's ``Retry-After`` is computed from it.

        Raises:
            Overloaded: There are too many requests already.
        """
        if self.requests >= self._max_requests:
            raise Overloaded(
                f"{self._max_requests} requests with many images are already in the service",
                retry_after_s=self.images * seconds_per_image,
                extra={"limit": self._max_requests},
            )
        room = Room(self, seconds_per_image)
        self.requests += 1
        try:
            yield room
        finally:
            self.requests -= 1
            room.clear()


class Room:
    """Memory of one request.

    Attributes:
        held: Bytes.
        images: Images without an answer.
    """

    def __init__(self, memory: ManyImagesMemory, seconds_per_image: float) -> None:
        self.held = 0
        self.images = 0
        self._memory = memory
        self._seconds_per_image = seconds_per_image

    @property
    def is_tight(self) -> bool:
        """True while all requests together hold so much that this one should send answers before it makes more."""
        return self._memory.is_full

    def expect(self, num_bytes: int) -> None:
        """Refuse a body of so many bytes before it is read.

        Raises:
            Overloaded: There is no room for them now.
        """
        memory = self._memory
        if memory.held > self.held and memory.held + num_bytes > memory.max_bytes:
            raise Overloaded(
                f"requests of many images hold {memory.held} bytes; with the {num_bytes} of this one they would exceed "
                f"the limit of {memory.max_bytes}",
                retry_after_s=memory.images * self._seconds_per_image,
                extra={"value": memory.held + num_bytes, "limit": memory.max_bytes, "unit": "bytes"},
            )

    def receive(self, num_bytes: int) -> None:
        """Count bytes of the body that have arrived.

        Raises:
            Overloaded: There is no room for them.
        """
        self.expect(num_bytes)
        self._add(num_bytes)

    def settle(self, num_images: int, num_bytes: int) -> None:
        """Count the images in place of the body, which has been read."""
        self._add(num_bytes - self.held, num_images)

    def answered(self, image_bytes: int, answer_bytes: int) -> None:
        """Count an answer in place of its image; an answer is never refused."""
        self._add(answer_bytes - image_bytes, -1)

    def sent(self, answer_bytes: int) -> None:
        """Release an answer."""
        self._add(-answer_bytes)

    def clear(self) -> None:
        """Release everything."""
        self._add(-self.held, -self.images)

    def _add(self, num_bytes: int, num_images: int = 0) -> None:
        self.held += num_bytes
        self.images += num_images
        self._memory.held += num_bytes
        self._memory.images += num_images
