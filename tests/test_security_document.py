"""SECURITY.md states the limits that the code has."""

from __future__ import annotations

import re
from pathlib import Path

from service.answers import contours, outlines, rle
from service.connections.limits import (
    MAX_HEADER_BYTES,
    MAX_HEADER_FIELDS,
    MAX_PIPELINED_BYTES,
    MAX_PIPELINED_REQUESTS,
    MAX_REFUSED_BYTES,
    ConnectionLimits,
)
from service.imaging.structure.limits import LIMITS
from service.model_directory.manifest import MAX_MANIFEST_BYTES
from service.request.json_bounds import MAX_MEMBERS
from service.settings import Settings, option

ROOT = Path(__file__).parents[1]
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_limit_of_a_file_has_its_row() -> None:
    rows = {f"| {it.format} | {it.value:,} | {it.unit} | {it.reason} |" for it in LIMITS}
    assert len(rows) == len(LIMITS) > 15
    assert rows <= set(SECURITY.splitlines())


def test_limits_of_a_connection_are_those_of_the_code() -> None:
    limits = ConnectionLimits(1, 1, 1)
    assert f"{MAX_HEADER_BYTES >> 10} KiB, {MAX_HEADER_FIELDS} fields" in SECURITY
    rate = f"{limits.min_bytes_per_s:,} bytes per second, checked every {limits.transfer_grace_s:g} s"
    assert rate in SECURITY
    assert f"{limits.max_unsent_bytes >> 20} MiB; then the one" in SECURITY
    assert f"read for {MAX_REFUSED_BYTES >> 20} MiB" in SECURITY
    assert f"{MAX_PIPELINED_REQUESTS}, and {MAX_PIPELINED_BYTES >> 10} KiB of their bodies" in SECURITY
    assert f"{MAX_MEMBERS:,} members" in SECURITY
    assert f"manifests of {MAX_MANIFEST_BYTES >> 20} MiB" in SECURITY
    assert f"{Settings.model_fields['max_connections'].default:,}, half of them" in SECURITY


def test_limits_of_an_answer_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (`.*) \| ([\d,]+) \| (\w+)[^|]* \| [^|]+\. \|$", SECURITY, re.MULTILINE)
    polygons, tools = "`contours` and the formats below", "`labelme`, `coco`, `labelstudio`"
    assert [(answer, int(value.replace(",", "")), unit) for answer, value, unit in rows] == [
        (polygons, contours.MAX_CORNERS, "corners"),
        (polygons, contours.MAX_RINGS, "rings"),
        (tools, outlines.MAX_CORNERS, "corners"),
        (tools, outlines.MAX_REGIONS, "regions"),
        (tools, outlines.MAX_HOLES, "holes"),
        ("`json` with `rle=true`", rle.MAX_RUNS, "runs"),
    ]


def test_named_settings_and_files_exist() -> None:
    options = {option(name) for name in Settings.model_fields}
    assert set(re.findall(r"`(--[a-z-]+)`", SECURITY)) <= options
    paths = re.findall(r"`((?:service|tests)/[\w/.]+)`", SECURITY) + re.findall(r"\]\(([^)]+)\)", SECURITY)
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []
