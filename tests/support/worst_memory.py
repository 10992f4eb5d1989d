"""Memory that a deployment of the bundled model must have room for."""

from __future__ import annotations

from service.memory_bound import memory_bound
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import read_manifest
from service.processes import workers_for
from service.settings import Settings
from service.workers.slots import Layout

# All processes before the first request, on a CPU.
_AT_REST_BYTES = 450 << 20


def worst_memory(settings: Settings, cores: int, images_per_s: float = 0) -> int:
    """Bytes of all processes at worst, on so many cores, with an engine of so many images a second."""
    manifest = read_manifest(bundled_model_dir())
    bound = memory_bound(
        settings.model_copy(update={"codec_threads": cores}),
        processes=workers_for(images_per_s, cores),
        slot_bytes=Layout.of(manifest.graph, manifest.num_classes, 1).total_bytes,
    )
    return sum(bound.values()) + _AT_REST_BYTES
