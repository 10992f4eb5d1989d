"""The messages between workers, the engine process and the supervisor."""

from __future__ import annotations

import struct
from enum import IntEnum


class Kind(IntEnum):
    """Subject of a message; the first ones go from a worker to the engine process, the next ones back."""

    # Fields of SUBMIT: ``SUBMISSION``, then the request's place in its trace. Of CANCEL: ``SUBMISSION``.
    SUBMIT = 1
    CANCEL = 2
    # MODEL: a request for it has left, and none is on its way.
    WAKE = 3
    # MODEL, with the descriptor of the slots.
    REGION = 4
    # MODEL: no request of the worker will use it any more.
    UNUSED = 5
    # JSON: id, method, arguments.
    CALL = 6
    # SERIAL of the catalog that the worker uses now.
    APPLIED = 7

    # ``RESULT``, once or several times: the output is in the slot.
    OUTPUT = 16
    # JSON: model, slot, generation, error.
    FAILURE = 17
    # JSON, see ``service.workers.engine_process``.
    CATALOG = 18
    # JSON: id, and result or error.
    REPLY = 19


class Control(IntEnum):
    """Messages between the supervisor and its children."""

    # To a worker, with the descriptor of a channel to the engine process.
    ENGINE = 1
    # To the engine process, with the descriptor of a channel to a worker.
    WORKER = 2
    # To the engine process: change no models any more.
    CLOSE = 3
    # From the engine process, JSON: the default model serves, at so many images a second.
    READY = 4
    # From a worker: it answers requests.
    SERVING = 6
    # From a child, JSON: the exit status and the message of the service, which cannot start.
    FAILED = 5
    # From the engine process, JSON: see ``Repository.choices``; for the next engine process.
    CHOICES = 8
    # From a child: its event loop runs.
    ALIVE = 7


# Model, slot, generation of the slot, deadline on the clock of all processes (CLOCK_MONOTONIC).
SUBMISSION = struct.Struct("<IIId")
# Model, slot, generation, start and end of the batch by ``time.perf_counter``.
RESULT = struct.Struct("<IIIdd")
MODEL = struct.Struct("<I")
SERIAL = struct.Struct("<I")
