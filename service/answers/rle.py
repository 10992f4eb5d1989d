"""Masks of classes as COCO's compressed run lengths, the way ``pycocotools.mask`` writes and reads them.

Runs go down the columns, zeros first. From the fourth on a count is stored as its difference to the count two places
before; each number becomes groups of 5 bits, the lowest first, in characters from ``0`` on.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidParameter

# 60 MB while they are written, and 0.5 s. The label map of a photo of 48 megapixels has some 50,000.
MAX_RUNS = 1_000_000
_GROUP_BITS = 5
_MORE = 1 << _GROUP_BITS
_SIGN = _MORE >> 1


def class_rles(labels: NDArray[np.uint8], class_ids: Iterable[int]) -> dict[int, str]:
    """Compute ``counts`` of the mask ``labels == id`` for every id; the mask's ``size`` is ``[H, W]``.

    Args:
        labels: (H, W) uint8 class ids.
        class_ids: 0..255; an id without pixels gives a mask of zeros.

    Raises:
        InvalidParameter: There are more than ``MAX_RUNS`` runs.
    """
    columns = labels.T.ravel()
    begins = columns[1:] != columns[:-1]
    _check(int(np.count_nonzero(begins)) + 1)
    starts = np.concatenate(([0], np.flatnonzero(begins) + 1))
    ends = np.append(starts[1:], columns.size)
    values = columns[starts]
    return {class_id: _compress(_counts(starts, ends, values == class_id, columns.size)) for class_id in class_ids}


def _check(runs: int) -> None:
    if runs > MAX_RUNS:
        raise InvalidParameter(
            f"the columns of this label map have {runs} runs of equal pixels, the limit of rle=true is {MAX_RUNS}; "
            "ask for size=model, or use format=labels",
            extra={"parameter": "rle", "value": True, "limit": MAX_RUNS, "unit": "runs"},
        )


def _counts(
    starts: NDArray[np.int64], ends: NDArray[np.int64], wanted: NDArray[np.bool_], total: int
) -> NDArray[np.int64]:
    """Compute the alternating lengths of zeros and ones of a mask whose ones are the wanted runs."""
    borders = np.stack((starts[wanted], ends[wanted]), axis=1).ravel()
    counts = np.diff(borders, prepend=0, append=total)
    # The zeros after the last ones are left out.
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def _compress(counts: NDArray[np.int64]) -> str:
    numbers = counts.copy()
    numbers[3:] -= counts[1:-2]
    groups = []
    pending = np.ones(len(numbers), bool)
    while pending.any():
        group = numbers & (_MORE - 1)
        numbers >>= _GROUP_BITS
        more = pending & np.where(group & _SIGN, numbers != -1, numbers != 0)
        groups.append(np.where(pending, group + np.where(more, _MORE, 0) + ord("0"), 0))
        pending = more
    characters = np.stack(groups, axis=1).astype(np.uint8).ravel()
    return bytes(characters[characters != 0]).decode("ascii")
