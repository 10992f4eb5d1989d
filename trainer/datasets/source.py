"""A dataset to learn from beside another one, as a table of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from trainer.datasets.mapped import named_map


def _names(classes: Any) -> Any:
    """The map of this name, or the table that is given."""
    return named_map(classes) if isinstance(classes, str) else classes


class Source(BaseModel):
    """A dataset of a mixture.

    Attributes:
        dataset: Its name, as ``open_dataset`` takes it.
        root: Its folder.
        split: Its split to learn from.
        weight: How often each of its images is seen in an epoch; below 1, other images are seen in other epochs.
        classes: The class of the mixture, or ``void``, for each of its classes by name, or the name of one of
            ``NAMED_MAPS``; others keep their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    dataset: str
    root: str
    split: str = "train"
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    classes: Annotated[Mapping[str, str], BeforeValidator(_names)] = Field(default_factory=dict)
