"""A process that decodes images, each within limits that the kernel enforces; ``python -m`` with a connection's number.

An image that uses its time ends the process; one that wants more memory than its share fails alone. The process can
neither gain privileges nor start programs nor open sockets, see ``service.imaging.system_calls``.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import resource
import signal
import socket
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import PayloadTooLarge, ServiceError, pack_error
from service.idle_memory import trim
from service.imaging.codec import decode
from service.imaging.system_calls import forbid_system_calls

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
MAX_MESSAGE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """An image to decode; see ``decode``.

    Attributes:
        max_image_bytes: Most bytes of the file.
        max_image_pixels: Most pixels.
        background: Colour behind transparent pixels.
        cpu_s: Seconds of CPU that it may use.
        memory_bytes: Bytes of memory that it may take.
    """

    max_image_bytes: int
    max_image_pixels: int
    background: tuple[int, int, int]
    cpu_s: float
    memory_bytes: int


def serve(connection: socket.socket) -> None:
    """Decode one image after the other until the other end is gone."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, 1)
        if not message:
            return
        with os.fdopen(descriptors[0], "rb") as file:
            file.seek(0)
            data = file.read()
        fields = json.loads(message)
        answer, pixels = _answer(data, Job(**{**fields, "background": tuple(fields["background"])}))
        if pixels is None:
            connection.send(answer)
            continue
        descriptor = memory_of(pixels)
        del pixels
        socket.send_fds(connection, [answer], [descriptor])
        os.close(descriptor)
        trim()


def memory_of(content: bytes | NDArray[np.uint8]) -> int:
    """The descriptor of a file in memory with this content."""
    descriptor = os.memfd_create("ecenet-image", os.MFD_CLOEXEC)
    view = memoryview(content if isinstance(content, bytes) else content.data).cast("B")
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done : done + (1 << 30)], done)
    return descriptor


def _answer(data: bytes, job: Job) -> tuple[bytes, NDArray[np.uint8] | None]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = usage.ru_utime + usage.ru_stime
    # The kernel counts whole seconds, over the life of the process; SIGXCPU ends it.
    _limit(resource.RLIMIT_CPU, math.ceil(used_s + job.cpu_s))
    _limit(resource.RLIMIT_AS, _address_space() + job.memory_bytes)
    try:
        image = decode(
            data,
            max_image_bytes=job.max_image_bytes,
            max_image_pixels=job.max_image_pixels,
            background=job.background,
        )
    except (MemoryError, ServiceError) as error:
        return json.dumps({"error": pack_error(_named(error, job))}).encode(), None
    return json.dumps({"shape": image.pixels.shape}).encode(), np.ascontiguousarray(image.pixels)


def _named(error: MemoryError | ServiceError, job: Job) -> ServiceError:
    """The error for the client: the codec takes a lack of memory for a corrupt file."""
    if isinstance(error, ServiceError) and not isinstance(error.__cause__, MemoryError):
        return error
    limit = job.memory_bytes
    detail = f"decoding the image takes more than {limit} bytes of memory"
    return PayloadTooLarge(detail, extra={"limit": limit, "unit": "bytes of memory"})


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def main() -> None:
    """Serve the connection whose number is the argument, and end with the process that has started this one."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    prctl(_PR_SET_NAME, b"ecenet decoder", 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    forbid_system_calls()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection)


if __name__ == "__main__":
    main()
