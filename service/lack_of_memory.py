"""An allocation that fails is a state of this process, not a fault of the image: 503, and a retry may succeed."""

from __future__ import annotations

import mmap
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import NotAnImage, Overloaded

# A process that has fewer bytes of address space left is one without memory.
_ROOM_BYTES = 64 << 20


@contextmanager
def report_lack_of_memory() -> Iterator[None]:
    """Raise ``Overloaded`` for an allocation that fails.

    Pillow raises ``MemoryError`` for some corrupt files too, which the codec gives as ``NotAnImage``, and a lack of
    memory in libwebp looks like a corrupt file. Both count as a lack of memory only where the address space of this
    process is limited, the latter if little of it is left.
    """
    try:
        yield
    except MemoryError as error:
        raise _lack_of_memory() from error
    except NotAnImage as error:
        if _is_limited() and (isinstance(error.__cause__, MemoryError) or not _has_room()):
            raise _lack_of_memory() from error
        raise


def _lack_of_memory() -> Overloaded:
    return Overloaded("the service has not enough free memory for this image now", retry_after_s=1)


def _is_limited() -> bool:
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _has_room() -> bool:
    try:
        mmap.mmap(-1, _ROOM_BYTES).close()
    except OSError:
        return False
    return True
