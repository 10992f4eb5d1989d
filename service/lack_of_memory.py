"""An allocation that fails is a state of this process, not a fault of the image: 503, and a retry may succeed."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import NotAnImage, Overloaded


@contextmanager
def report_lack_of_memory() -> Iterator[None]:
    """Raise ``Overloaded`` for an allocation that fails.

    Pillow raises ``MemoryError`` for some corrupt files too, which the codec gives as ``NotAnImage``. That counts as a
    lack of memory only where the address space of this process is limited.
    """
    try:
        yield
    except MemoryError as error:
        raise _lack_of_memory() from error
    except NotAnImage as error:
        if isinstance(error.__cause__, MemoryError) and _is_limited():
            raise _lack_of_memory() from error
        raise


def _lack_of_memory() -> Overloaded:
    return Overloaded("the service has not enough free memory for this image now", retry_after_s=1)


def _is_limited() -> bool:
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
