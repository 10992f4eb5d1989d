"""Contours of a label map as a GeoJSON document whose coordinates are pixels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.answers.contours import Polygon, Ring, signed_area, trace
from service.model_directory.manifest import ClassInfo, Manifest

# Corners written by one call of the JSON encoder, which keeps the interpreter to itself meanwhile.
_CHUNK = 4096


def encode_contours(labels: NDArray[np.uint8], manifest: Manifest) -> bytes:
    """A ``FeatureCollection`` with one ``MultiPolygon`` for each class that is there, ordered by id.

    Args:
        labels: (H, W) uint8; pixels whose id is no class are left out.
        manifest: For names and colours.
    """
    height, width = labels.shape
    polygons = trace(labels)
    features = ",".join(_feature(info, polygons[info.id]) for info in manifest.classes if info.id in polygons)
    head = _json(
        {
            "type": "FeatureCollection",
            "size": {"width": width, "height": height},
            "model": {"name": manifest.name, "version": manifest.version},
        }
    )
    return f'{head[:-1]},"features":[{features}]}}'.encode()


def _feature(info: ClassInfo, polygons: Sequence[Polygon]) -> str:
    pixels = sum(signed_area(ring) for polygon in polygons for ring in polygon)
    properties = {"id": info.id, "name": info.name, "color": info.color, "pixels": pixels}
    coordinates = _array(_array(_closed(ring) for ring in polygon) for polygon in polygons)
    geometry = f'{{"type":"MultiPolygon","coordinates":{coordinates}}}'
    return f'{{"type":"Feature","properties":{_json(properties)},"geometry":{geometry}}}'


def _closed(ring: Ring) -> str:
    """A ring whose first corner is its last, too."""
    corners = np.concatenate((ring, ring[:1]))
    return _array(_json(corners[at : at + _CHUNK].tolist())[1:-1] for at in range(0, len(corners), _CHUNK))


def _array(items: Iterable[str]) -> str:
    return f"[{','.join(items)}]"


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
