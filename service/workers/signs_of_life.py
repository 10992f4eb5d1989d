"""Signs of life: the event loop of each child sends one every second, and the supervisor misses them.

A loop stands still with its process, and also where a call never returns that keeps the interpreter's lock, such as one
into a driver. The watch over the engine is in the same process, and stands still with it.
"""

from __future__ import annotations

import asyncio

from service.workers.channel import Channel
from service.workers.messages import Control

_INTERVAL_S = 1.0


async def send_signs(control: Channel) -> None:
    """Send the supervisor signs of life for ever."""
    while True:
        control.send(Control.ALIVE)
        await asyncio.sleep(_INTERVAL_S)
