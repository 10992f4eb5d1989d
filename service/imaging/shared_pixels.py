"""The pixels of a Pillow image as an array, without a copy, by the Arrow C data interface that Pillow exports."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.imaging.native import PADDED_BYTES


class _ArrowArray(ctypes.Structure):
    """``struct ArrowArray`` of the Arrow C data interface."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("children", ctypes.POINTER(ctypes.c_void_p)),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer.restype = ctypes.c_void_p


def shared_pixels(image: Image.Image) -> NDArray[np.uint8] | None:
    """View the pixels of a loaded RGB image as (H, W, 3) uint8, read-only, with four bytes from pixel to pixel.

    The view keeps the memory alive. It is for images that nobody changes any more.

    Returns:
        The view, or None where Pillow keeps the image in several blocks, which it does from 16 MB on.
    """
    try:
        _, capsule = image.__arrow_c_array__()
    except ValueError:
        return None
    padded = np.asarray(_Memory(capsule, (image.height, image.width, PADDED_BYTES)))
    return padded[..., :3]


class _Memory:
    """The samples of an exported image; the capsule gives them back when it is gone."""

    def __init__(self, capsule: object, shape: tuple[int, int, int]) -> None:
        self._capsule = capsule
        pixels = _ArrowArray.from_address(_capsule_pointer(capsule, b"arrow_array"))
        samples = _ArrowArray.from_address(pixels.children[0])
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "typestr": "|u1",
            "shape": shape,
            "data": (samples.buffers[1], True),
        }
