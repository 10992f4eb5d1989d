"""The engines that the models of some settings get, and the measurements behind the choice."""

from __future__ import annotations

from service.engines.base import EngineError
from service.engines.measured_choice import explain_engine
from service.models.source import FoundModel, model_source
from service.settings import Settings


def explain_engines(settings: Settings) -> str:
    """A table per model; of one that cannot be served, the reason. Measures what no earlier start has measured.

    Raises:
        ManifestError: There is no model.
    """
    return "\n\n".join(_explain(found, settings) for found in model_source(settings).find())


def _explain(found: FoundModel, settings: Settings) -> str:
    if found.manifest is None or found.problem:
        return f"{found.title} cannot be served: {found.problem}"
    try:
        return explain_engine(found.directories[0], found.manifest, settings.engine_options)
    except EngineError as error:
        return f"{found.title} cannot be served: {error}"
