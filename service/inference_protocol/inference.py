"""The images of one request through the pipeline: each is submitted separately, so all requests share batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from service.engines.base import Rows
from service.errors import EngineFailure
from service.imaging.label_map import Logits, in_float32
from service.imaging.segmentation import labels_of
from service.inference.admission import Ticket
from service.inference.pipeline import Pipeline
from service.inference_protocol.answer import EncodedRow, encode_row
from service.inference_protocol.inference_request import Image, WantedOutput
from service.inference_protocol.signature import LABELS, LOGITS


async def run_inference(
    pipeline: Pipeline,
    images: Sequence[Image],
    outputs: Sequence[WantedOutput],
    label_size: tuple[int, int],
    tickets: Sequence[Ticket],
) -> list[EncodedRow]:
    """Run images, in their order, and encode the requested outputs.

    Args:
        pipeline: Where they run.
        images: The images, each with its ticket.
        outputs: What to answer for each.
        label_size: (H, W) of the label maps.
        tickets: As many as there are images.

    Raises:
        ServiceError: Of the first image that fails; the others are given up. See ``Pipeline.segment``.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_run(pipeline, image, outputs, label_size, ticket))
                for image, ticket in zip(images, tickets, strict=True)
            ]
    except* Exception as failures:
        first = failures.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise first


async def _run(
    pipeline: Pipeline, image: Image, outputs: Sequence[WantedOutput], label_size: tuple[int, int], ticket: Ticket
) -> EncodedRow:
    def encode(output: Rows) -> EncodedRow:
        return _encode(output, outputs, label_size, ticket)

    if isinstance(image, bytes):
        return await pipeline.infer_file(image, ticket, encode)
    return await pipeline.infer_pixels(image, ticket, encode)


def _encode(output: Rows, outputs: Sequence[WantedOutput], label_size: tuple[int, int], ticket: Ticket) -> EncodedRow:
    with ticket.stage("post"):
        row = {wanted.info.name: _value(wanted.info.name, output, label_size) for wanted in outputs}
    with ticket.stage("encode"):
        return encode_row(row, outputs)


def _value(name: str, output: Rows, label_size: tuple[int, int]) -> NDArray[Any]:
    """The content of an output for one image."""
    if name == LOGITS:
        return _finite(in_float32(cast(Logits, output)))
    assert name == LABELS
    try:
        return labels_of(output, label_size)
    except ValueError as error:
        raise EngineFailure(f"the model's output for this image cannot be used: {error}") from error


def _finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(logits).all():
        raise EngineFailure("the model's output for this image cannot be used: logits hold NaN or infinity")
    return logits
