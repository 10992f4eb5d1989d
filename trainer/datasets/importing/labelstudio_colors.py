"""Colours of Label Studio's labels: its exports have none, but its labelling configuration may be beside them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from trainer.datasets.errors import UnreadableFileError
from trainer.datasets.importing.colors import parse_color
from trainer.datasets.importing.sources import files_below
from trainer.datasets.label_coding import Color


def label_colors(root: Path) -> dict[str, Color | None]:
    """Labels in the order of the configuration, the ``.xml`` files of the folder, with their ``background`` colour."""
    colors: dict[str, Color | None] = {}
    for path in files_below(root, (".xml",)):
        try:
            view = ET.fromstring(path.read_bytes())  # noqa: S314 - expat bounds what entities expand to
        except (ET.ParseError, OSError) as error:
            raise UnreadableFileError(f"{path} cannot be read as XML: {error}") from error
        for label in view.iter("Label"):
            name = (label.get("alias", "") or label.get("value", "")).strip()  # regions have the alias
            if name:
                colors[name] = parse_color(f"{path}, label {name!r},", label.get("background"))
    return colors
