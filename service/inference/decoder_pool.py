"""Processes for images of an unusual structure, whose decoding may take long: they can be killed, a thread cannot."""

from __future__ import annotations

import json
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import NotAnImage, Overloaded, PayloadTooLarge, ServiceError, unpack_error
from service.imaging.decode_process import MAX_MESSAGE_BYTES, Job, memory_of
from service.logs import client_of_request

logger = logging.getLogger(__name__)

# A process that waits for the CPU is not at fault: its time is counted by the kernel, this only ends a hang.
_WALL_FACTOR = 10
_MIN_WALL_S = 30.0
# Signals that end a process which has used its CPU time, or has been ended after its wall time.
_LIMIT_SIGNALS = (signal.SIGXCPU, signal.SIGKILL)
# Clients whose strikes are counted.
_MOST_CLIENTS = 1024


@dataclass(frozen=True, slots=True)
class _Process:
    popen: subprocess.Popen[bytes]
    connection: socket.socket

    def close(self) -> int:
        """End it, if it is still running; gives the signal that ended it, or 0."""
        self.connection.close()
        self.popen.kill()
        return max(0, -self.popen.wait())


class DecoderPool:
    """Decodes in at most ``size`` processes, which are started when they are needed, and stay."""

    def __init__(self, size: int) -> None:
        self._free = threading.BoundedSemaphore(size)
        self._idle: list[_Process] = []
        self._lock = threading.Lock()
        self._is_closed = False
        self._strikes: Counter[str] = Counter()

    @property
    def idle(self) -> list[int]:
        """Ids of the processes that decode nothing at this moment."""
        return [process.popen.pid for process in self._idle]

    def decode(self, data: bytes, job: Job, *, wait_s: float) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) uint8 of an image file; for a thread that may block.

        Args:
            data: The file.
            job: Its limits.
            wait_s: Seconds to wait for a process.

        Raises:
            Overloaded: No process was free in time, or the system starts none.
            PayloadTooLarge: The image took more CPU time or memory than it may.
            NotAnImage: The decoder crashed.
            ServiceError: See ``service.imaging.codec.decode``.
        """
        with self._process(wait_s) as process:
            descriptor = memory_of(data)
            try:
                process.connection.settimeout(max(_MIN_WALL_S, _WALL_FACTOR * job.cpu_s))
                socket.send_fds(process.connection, [json.dumps(asdict(job)).encode()], [descriptor])
                message, descriptors, _, _ = socket.recv_fds(process.connection, MAX_MESSAGE_BYTES, 1)
            except OSError:
                message, descriptors = b"", []
            finally:
                os.close(descriptor)
            if not message:
                raise self._strike(process.close(), job)
        answer = json.loads(message)
        if "error" in answer:
            raise unpack_error(answer["error"])
        return _mapped(descriptors[0], tuple(answer["shape"]))

    def close(self) -> None:
        """End the processes that are idle, and the others after their image."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.close()

    def _strike(self, ending: int, job: Job) -> ServiceError:
        """Note in the log whose image has ended a process, by which signal; gives the error for the client."""
        client = client_of_request() or "unknown"
        with self._lock:
            if len(self._strikes) >= _MOST_CLIENTS:
                self._strikes.clear()
            self._strikes[client] += 1
            strikes = self._strikes[client]
        is_limit = ending in _LIMIT_SIGNALS
        reason = f"more than {job.cpu_s:g} s of CPU" if is_limit else "the decoder crashed"
        logger.warning(
            "an image of an unusual structure was given up: %s; images of client %s that were: %d",
            reason,
            client,
            strikes,
            extra={"client": client, "strikes": strikes},
        )
        return _too_long(job) if is_limit else NotAnImage("the image is corrupt: the decoder crashed on it")

    @contextmanager
    def _process(self, wait_s: float) -> Iterator[_Process]:
        """A process of the block; it is not used again after an error of the block."""
        if not self._free.acquire(timeout=max(0.0, wait_s)):
            raise Overloaded("other images of an unusual structure are being decoded", retry_after_s=1)
        try:
            process = self._idle_process() or _start()
            try:
                yield process
            except BaseException:
                process.close()
                raise
            with self._lock:
                if not self._is_closed:
                    self._idle.append(process)
                    return
            process.close()
        finally:
            self._free.release()

    def _idle_process(self) -> _Process | None:
        """A process that decodes nothing; that one was killed meanwhile is not the fault of the next image."""
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None or process.popen.poll() is None:
                return process
            process.close()


def _start() -> _Process:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "service.imaging.decode_process", str(theirs.fileno())]
        try:
            popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))  # noqa: S603
        except OSError:  # the system has no more processes to give
            ours.close()
            raise Overloaded("the service cannot start a process for this image now", retry_after_s=1) from None
    return _Process(popen, ours)


def _too_long(job: Job) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"decoding the image takes more than {job.cpu_s:g} s of CPU",
        extra={"limit": job.cpu_s, "unit": "seconds of CPU"},
    )


def _mapped(descriptor: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        memory = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
    return np.frombuffer(memory, np.uint8).reshape(shape)
