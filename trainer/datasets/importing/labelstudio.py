"""Label Studio's JSON export (https://labelstud.io/guide/export), complete or as JSON_MIN.

Regions are drawn in the order of the annotation. Places are percentages of the image. Of several annotations of a task
the one marked as ground truth counts, else the newest that was not cancelled. Predictions are not labels and are left
out. Key points and lines have no area.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from trainer.datasets.folder_files import IMAGE_EXTENSIONS
from trainer.datasets.importing.collector import Collector, Source
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.fields import Fields, as_number, as_object, read_json
from trainer.datasets.importing.labelstudio_bitmask import KEY as BITMASK
from trainer.datasets.importing.labelstudio_bitmask import bitmask
from trainer.datasets.importing.labelstudio_brush import Brush
from trainer.datasets.importing.labelstudio_colors import label_colors
from trainer.datasets.importing.names import without_upload_hash
from trainer.datasets.importing.records import Export, Shape
from trainer.datasets.importing.regions import Polygon, Region, ellipse, turned
from trainer.datasets.importing.sources import files_below

Size = tuple[int, int]


def read_labelstudio_json(source: Source) -> Export:
    """Read the tasks of an export.

    Raises:
        DatasetError: There is no JSON of tasks, or one is not in Label Studio's form.
    """
    collector = Collector(source)
    found = [(path, tasks) for path in json_files(source.path) if (tasks := tasks_of(path))]
    if not found:
        raise ImportingError(
            f"{source.path} has no JSON of Label Studio: a list of tasks with 'data' and 'annotations'"
        )
    for name, color in label_colors(source.root).items():
        collector.category(name, color)
    shapes = [(path, task, _shapes(task, collector, path)) for path, tasks in found for task in tasks]
    for name in sorted({shape.label for *_, drawn in shapes for shape in drawn or ()}):
        collector.category(name)
    for path, task, drawn in shapes:
        image = collector.find(references(task), path)
        if image is not None and drawn is not None:
            collector.add(image, drawn, path, size=stated_size(task))
    return collector.export()


def json_files(path: Path) -> list[Path]:
    """The file, or all JSON files of a folder."""
    return [path] if path.is_file() else files_below(path, (".json",))


def tasks_of(path: Path) -> list[Fields]:
    """The tasks of a JSON file, those of JSON_MIN in the complete form; none if it holds something else."""
    content = read_json(path)
    tasks = [content] if isinstance(content, dict) and "data" in content else content
    if not isinstance(tasks, list):
        return []
    return [as_object(f"{path}, task {index}", _complete(task)) for index, task in enumerate(tasks)]


def _complete(task: Any) -> Any:
    """A task of JSON_MIN as the complete export has it."""
    if not isinstance(task, dict) or "data" in task:
        return task
    results: list[dict[str, Any]] = []
    data: dict[str, Any] = {}
    for key, value in task.items():
        regions = [it for it in value if isinstance(it, dict)] if isinstance(value, list) else []
        results += [{**_min_result(region), "from_name": key} for region in regions]
        if isinstance(value, str):
            data[key] = value
    return {"id": task.get("id"), "data": data, "annotations": [{"id": 0, "result": results}]}


def _min_result(region: dict[str, Any]) -> dict[str, Any]:
    kind = next((key for key in region if key.endswith("labels")), "labels")
    result: dict[str, Any] = {"type": kind, "value": region}
    for key in ("original_width", "original_height", "image_rotation"):
        if key in region:
            result[key] = region[key]
    return result


def references(task: Fields) -> list[str]:
    """Possible names of a task's image, the most exact first."""
    texts = [value for value in task.object("data").values.values() if isinstance(value, str)]
    paths = [path for text in texts for path in _paths(text)]
    upload = task.values.get("file_upload")
    images = [path for path in paths if path.lower().endswith(IMAGE_EXTENSIONS)]
    names = [*(images or paths), *([upload] if isinstance(upload, str) and upload else [])]
    if not names:
        raise ImportingError(f"{task.where}: 'data' names no image")
    return [*names, *(without_upload_hash(name) for name in names)]


def _paths(url: str) -> Iterator[str]:
    """The path of an address, of a file behind ``/data/local-files/?d=``, or of a plain path."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no address, such as one of brackets
        yield url
        return
    yield from parse_qs(parts.query).get("d", [])
    if parts.path:
        yield unquote(parts.path).lstrip("/")
    yield url


def stated_size(task: Fields) -> Size | None:
    """The image's (height, width) as its regions state it."""
    for result in _results(task) or ():
        size = result.size("original_height", "original_width")
        if size is not None:
            return size
    return None


def _results(task: Fields) -> list[Fields] | None:
    annotation = chosen_annotation(task)
    if annotation is None:
        return None
    # Relations between regions are results without a value.
    return [it for it in annotation.objects("result") if isinstance(it.values.get("value"), dict)]


def chosen_annotation(task: Fields) -> Fields | None:
    """The annotation that counts; None where there is none."""
    if task.values.get("annotations") is None and "completions" not in task.values:
        return None
    key = "annotations" if "annotations" in task.values else "completions"
    done = [it for it in task.objects(key) if not it.values.get("was_cancelled")]
    return max(done, key=_rank, default=None)


def _rank(annotation: Fields) -> tuple[bool, str, float]:
    values = annotation.values
    updated = values.get("updated_at") or values.get("created_at") or ""
    return bool(values.get("ground_truth")), str(updated), as_number(values.get("id")) or 0


def _number(result: Fields) -> str | None:
    """The ``id`` of a result, which those of one region share."""
    value = result.values.get("id")
    if value is not None and not isinstance(value, str | int):
        raise result.wrong("id", "text")
    return None if value is None else str(value)


def _shapes(task: Fields, collector: Collector, path: Path) -> list[Shape] | None:
    results = _results(task)
    if results is None:
        return None
    labels = {_number(it): label for it in results if (label := _label(it))}
    shapes: list[Shape] = []
    seen: set[Any] = set()
    for result in results:
        number = _number(result)
        label = _label(result) or labels.get(number)
        region = _region(result)
        if region is None:
            if _label(result) and number not in seen:
                kind = result.values.get("type")
                collector.leave_out(path, f"{kind} is not a polygon, rectangle, ellipse, brush or bitmask")
        elif label is None:
            collector.leave_out(path, "no label")
        elif number is None or number not in seen:
            shapes.append(Shape(label, region))
            seen.add(number)
    return shapes


def _label(result: Fields) -> str | None:
    """The first label of a region."""
    value = result.object("value").values
    labels = [names[0] for key, names in value.items() if key.endswith("labels") and isinstance(names, list) and names]
    return str(labels[0]).strip() if labels else None


def _region(result: Fields) -> Region | None:
    """The area of a region; None if it has none."""
    value = result.object("value")
    if not value.values.keys() & {"points", "rle", "radiusX", "height", BITMASK}:
        return None
    if as_number(result.values.get("image_rotation", 0)) != 0:
        raise result.wrong("image_rotation", "0; turn the image back in Label Studio, or the photo before the upload")
    if BITMASK in value.values:
        return bitmask(value)
    size = result.size("original_height", "original_width")
    if size is None:
        raise result.wrong("original_width", "the image's width in pixels, beside 'original_height'")
    if "rle" in value.values:
        return Brush(value.list("rle"), size, value.where)
    percent = np.array(size[::-1]) / 100
    if "points" in value.values:
        return None if len(value.list("points")) < 3 else Polygon(value.ring("points", 3) * percent)
    degrees = as_number(value.values.get("rotation", 0)) or 0.0
    corner = np.array((value.number("x"), value.number("y"))) * percent
    if "radiusX" in value.values:
        radii = np.array((value.number("radiusX"), value.number("radiusY"))) * percent
        return ellipse(corner[0], corner[1], radii[0], radii[1], degrees)
    width, height = np.array((value.number("width"), value.number("height"))) * percent
    box = corner + np.array([(0, 0), (width, 0), (width, height), (0, height)])
    return Polygon(turned(box, corner, degrees))
