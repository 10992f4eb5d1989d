"""The compiled part of the service, ``label_map.c`` and ``resize.c``; a ``CDLL``, whose calls release the GIL."""

from __future__ import annotations

import ctypes
from enum import IntEnum
from pathlib import Path

LIBRARY = Path(__file__).with_name("_native.so")
MAX_CLASSES = 256
# Bytes from pixel to pixel where a fourth one follows R, G and B, as Pillow keeps them.
PADDED_BYTES = 4


class Status(IntEnum):
    """Results of the functions, as ``native.h`` numbers them."""

    OK = 0
    NOT_FINITE = 1
    NO_MEMORY = 2


def load_library(path: Path) -> ctypes.CDLL:
    """Load it.

    Raises:
        ImportError: The library is missing or is for another machine; the text says how to build it.
    """
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"{path.name} cannot be loaded; build it with `pip install -e .` ({error})") from None
    loaded.label_map.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 6, ctypes.c_void_p]
    loaded.label_map.restype = ctypes.c_int
    loaded.widen.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    loaded.widen.restype = None
    loaded.resize.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 5, ctypes.c_void_p]
    loaded.resize.restype = ctypes.c_int
    return loaded


def check_size(size: tuple[int, int]) -> None:
    """Refuse a size of a result that the functions do not take.

    Raises:
        ValueError: Not two sides of 1 or more each.
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}, expected (H, W) of 1 or more each")


library = load_library(LIBRARY)
