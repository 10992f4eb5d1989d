"""Signs of life: the event loop of each child sends one every second, and the supervisor misses them.

A loop stands still with its process, and also where a call never returns that keeps the interpreter's lock, such as one
into a driver. The watch over the engine is in the same process, and stands still with it.
"""

from __future__ import annotations

import asyncio

from service.workers.channel import Channel
from service.workers.messages import Control

_INTERVAL_S = 1.0
# A supervisor that was paused itself, as by `docker pause`, has missed no more than this.
_LONGEST_STEP_S = 2.0


async def send_signs(control: Channel) -> None:
    """Send the supervisor signs of life for ever."""
    while True:
        control.send(Control.ALIVE)
        await asyncio.sleep(_INTERVAL_S)


class Silence:
    """How long each child has sent no sign of life, by process id, while the supervisor could have read one."""

    def __init__(self, now: float) -> None:
        """Begin at ``now``, seconds of a monotonic clock."""
        self._now = now
        self._silent: dict[int, float] = {}

    def heard(self, pid: int) -> None:
        """A child has sent a sign; from its first on it is watched."""
        self._silent[pid] = 0.0

    def forget(self, pid: int) -> None:
        """A child has ended, or been killed."""
        self._silent.pop(pid, None)

    def longer_than(self, seconds: float, now: float) -> list[int]:
        """Let time pass until ``now``, and give the children that were silent for more than ``seconds``."""
        step, self._now = min(now - self._now, _LONGEST_STEP_S), now
        for pid in self._silent:
            self._silent[pid] += step
        return [pid for pid, silent in self._silent.items() if silent > seconds]
