"""Messages of libtiff, which it prints to standard error between the lines of the log.

Pillow reports the same faults as exceptions. It links libtiff as a shared library, so its handlers can be set there.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

_MAPS = Path("/proc/self/maps")


@cache
def discard_tiff_messages() -> bool:
    """Let libtiff print nothing in this process; False where Pillow has it built in, and the messages stay."""
    libraries = {line.split(maxsplit=5)[-1].strip() for line in _MAPS.read_text().splitlines() if "libtiff" in line}
    for library in libraries:
        loaded = ctypes.CDLL(library)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            setter = getattr(loaded, name)
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
    return bool(libraries)
