"""HTTP: lists of the models and their labels, for people and programs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from service.answers.options import available_formats, available_modes
from service.answers.schemas import ClassLabel, ImageSize, Labels, ModelInfo, Models, ServedModel
from service.http.openapi import LABELS_RESPONSES, MODELS_RESPONSES
from service.model_directory.manifest import Manifest
from service.models import catalog
from service.request.dependencies import RuntimeOf, pipeline_for

router = APIRouter()

ModelName = Annotated[str | None, Query(description="Name of the model; the default one if not given.")]


@router.get("/labels", summary="The classes of the model", responses=LABELS_RESPONSES)
async def labels(request: Request, model: ModelName = None) -> Labels:
    """Id, name and colour of every class, in the order of the ids."""
    manifest = pipeline_for(request, model).manifest
    classes = [ClassLabel(id=info.id, name=info.name, color=info.color) for info in manifest.classes]
    return Labels(model=_model_info(manifest), classes=classes)


@router.get("/models", summary="The models that answer", responses=MODELS_RESPONSES)
async def models(runtime: RuntimeOf) -> Models:
    """Name, version and input size of every model, what runs it, and the formats that it can answer."""
    if not runtime.models.models:
        runtime.pipeline()  # raises the reason
    default = runtime.models.default
    return Models(models=[_served_model(model, default) for model in runtime.models.models])


def _served_model(model: catalog.ServedModel, default: str) -> ServedModel:
    height, width = model.graph.input_size
    return ServedModel(
        name=model.manifest.name,
        version=model.manifest.version,
        input_size=ImageSize(width=width, height=height),
        precision=model.graph.precision,
        engine=model.engine_name,
        num_classes=model.manifest.num_classes,
        formats=available_formats(model.graph),
        modes=available_modes(model.graph),
        default=model.manifest.name == default,
    )


def _model_info(manifest: Manifest) -> ModelInfo:
    return ModelInfo(name=manifest.name, version=manifest.version)
