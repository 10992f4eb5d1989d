"""Forecast of when an image will be done, from the lines before the engines. The estimates are in mean times."""

from __future__ import annotations

from collections.abc import Callable, Collection

from service.inference.image_queue import ImageQueue


class Forecast:
    """Estimates over the queues of all models, whose engines share the machine."""

    def __init__(self, queues: Callable[[], Collection[ImageQueue]]) -> None:
        """``queues`` gives those that are open."""
        self._queues = queues

    def ahead_s(self, expected: int) -> float:
        """Seconds until all images in the queues, and ``expected`` ones on their way there, are done."""
        queues = self._queues()
        if not queues:
            return 0.0
        mean_s = sum(queue.seconds_per_image for queue in queues) / len(queues)
        return sum(queue.line_s(0) for queue in queues) + expected * mean_s

    def done_s(self, queue: ImageQueue, expected: int) -> float:
        """Seconds until a further image for ``queue`` is done, behind those in all queues and ``expected`` others."""
        others = (other for other in self._queues() if other is not queue)
        return queue.line_s(expected + 1) + sum(other.line_s(0) for other in others)


def line_s(images: int, *, free_s: float, max_batch_size: int, first_s: float, full_s: float) -> float:
    """Seconds until all images of a line are done.

    Args:
        images: Those that wait.
        free_s: Seconds until the engine takes the next batch.
        max_batch_size: Most images of a batch.
        first_s: Time of a batch of one image.
        full_s: Time of a full batch; those between are interpolated linearly.
    """
    full, rest = divmod(images, max_batch_size)
    rest_s = first_s + (full_s - first_s) * (rest - 1) / (max_batch_size - 1) if rest else 0.0
    return free_s + full * full_s + rest_s
