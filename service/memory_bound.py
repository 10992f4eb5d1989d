"""Most memory that requests can take, as a formula of the settings; ``SECURITY.md`` has its table.

A process without requests, and the engine's own memory, come on top: both are measured, not set. Where no
setting limits a part, the constants below are estimates.
"""

from __future__ import annotations

from service.answers import contours
from service.connections.limits import MAX_HEADER_BYTES, ConnectionLimits
from service.engines.tensorrt.build import MAX_BATCH_SIZE
from service.settings import Settings
from service.workers.slots import slots_for

# Most that a decoder takes for a pixel, the decoded pixels included: WebP, AVIF and HEIF.
BYTES_PER_PIXEL = 16
# Conversion to RGB, and a strip or tile beyond the image.
BYTES_PER_DECODING = (12 << 20) + (64 << 20)
# What uvicorn and the event loop read ahead, beside headers.
_READ_AHEAD_BYTES = 64 << 10
# The process that decodes an image of an unusual structure in place of a thread, without its image: 37 MiB measured.
_DECODE_PROCESS_BYTES = 64 << 20
# A cutout as PNG has 4 bytes for a pixel that does not compress.
_ANSWER_BYTES_PER_PIXEL = 4
# Two numbers of up to 8 characters, brackets and commas, and the corner's share of its ring.
_ANSWER_BYTES_PER_CORNER = 24
# A body exists twice while its pieces are joined, and once more while a JSON's base64 is decoded.
_BODY_COPIES = 2


def memory_bound(settings: Settings, *, processes: int, slot_bytes: int) -> dict[str, int]:
    """Give the most bytes that requests take in all processes together, by what they are for.

    Args:
        settings: How the service runs.
        processes: Those that serve HTTP.
        slot_bytes: Image and output of the model in one slot, see ``service.workers.slots.Layout``.
    """
    limits = ConnectionLimits(settings.max_connections, settings.max_connections, settings.header_timeout_s)
    threads = processes * -(-settings.codec_threads // processes)
    batch = settings.max_batch_size or MAX_BATCH_SIZE
    largest_answer = max(
        _ANSWER_BYTES_PER_PIXEL * settings.max_image_pixels, _ANSWER_BYTES_PER_CORNER * contours.MAX_CORNERS
    )
    return {
        "connections": settings.max_connections * (MAX_HEADER_BYTES + _READ_AHEAD_BYTES),
        "bodies": settings.max_requests_in_flight * settings.max_image_bytes
        + threads * _BODY_COPIES * settings.max_image_bytes,
        "decoding and encoding": threads * (BYTES_PER_PIXEL * settings.max_image_pixels + BYTES_PER_DECODING),
        "decode processes": threads * _DECODE_PROCESS_BYTES,
        "slots": processes * slots_for(settings.max_requests_in_flight, processes, batch) * slot_bytes,
        "unread answers": limits.max_unsent_bytes + processes * largest_answer,
        "many images": settings.many_images_memory_bytes + processes * settings.max_many_images_bytes,
        "cached answers": settings.cache_bytes,
    }
