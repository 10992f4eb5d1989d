"""Contours of a label map as a GeoJSON document whose coordinates are pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.answers.contours import Polygon, Ring, trace
from service.answers.json_text import json_array, json_numbers, json_object
from service.answers.simplify import simplify
from service.imaging.segmentation import class_counts
from service.model_directory.manifest import ClassInfo, Manifest


def encode_contours(labels: NDArray[np.uint8], manifest: Manifest, tolerance: float = 0) -> bytes:
    """A ``FeatureCollection`` with one ``MultiPolygon`` for each class present, ordered by id.

    Args:
        labels: (H, W) uint8; pixels whose id is not a class are left out.
        manifest: For names and colours.
        tolerance: See ``simplify``.
    """
    height, width = labels.shape
    polygons = simplify(trace(labels), labels, tolerance)
    pixels = class_counts(labels, manifest.num_classes).tolist()
    features = [_feature(info, pixels[info.id], polygons[info.id]) for info in manifest.classes if info.id in polygons]
    document = json_object(
        {
            "type": "FeatureCollection",
            "size": {"width": width, "height": height},
            "model": {"name": manifest.name, "version": manifest.version},
        },
        features=json_array(features),
    )
    return document.encode()


def _feature(info: ClassInfo, pixels: int, polygons: Sequence[Polygon]) -> str:
    properties = {"id": info.id, "name": info.name, "color": info.color, "pixels": pixels}
    coordinates = json_array(json_array(_closed(ring) for ring in polygon) for polygon in polygons)
    geometry = json_object({"type": "MultiPolygon"}, coordinates=coordinates)
    return json_object({"type": "Feature", "properties": properties}, geometry=geometry)


def _closed(ring: Ring) -> str:
    """A ring whose first corner is its last, too."""
    return json_numbers(np.concatenate((ring, ring[:1])))
