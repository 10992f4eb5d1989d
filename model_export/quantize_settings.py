"""Settings of the quantisation. Standard library only, so that the command's help is quick."""

from __future__ import annotations

from dataclasses import dataclass

from service.model_directory.sizes import Size


@dataclass(frozen=True, slots=True)
class QuantizeSettings:
    """Settings of the quantisation.

    Attributes:
        sizes: Input sizes whose float32 graphs are quantised; empty for all that the directory has.
        count: Calibration images at most, taken evenly from all; every fourth is held out to measure on.
        min_equal_labels: Share of labels, 0..1, that shall be those of the float32 graph. On CamVid 99.5% went with 0.2
            points of mIoU, so the default leaves room within half a point.
        force: Replace existing INT8 graphs.
    """

    sizes: tuple[Size, ...] = ()
    count: int = 32
    min_equal_labels: float = 0.993
    force: bool = False
