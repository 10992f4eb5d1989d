"""The manifest: round trip, and everything that makes a model directory unusable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.model_directory.manifest import (
    Bounds,
    ClassInfo,
    GraphInfo,
    Manifest,
    ManifestError,
    file_sha256,
    in_bf16,
    read_manifest,
    write_manifest,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"graph")
    manifest = Manifest(
        name="tiny",
        version="1.0.0",
        architecture="ecenet-lite0",
        classes=(ClassInfo(0, "Sky", (1, 2, 3)), ClassInfo(1, "Road", (4, 5, 6))),
        graphs=(GraphInfo("model.onnx", file_sha256(graph), (64, 96)),),
        metrics={"val_miou": 0.5},
    )
    write_manifest(tmp_path, manifest)
    return tmp_path


def edit(directory: Path, **fields: Any) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_graph(directory: Path, **fields: Any) -> None:
    raw = json.loads((directory / "manifest.json").read_text())
    edit(directory, graphs=[{**raw["graphs"][0], **fields}])


def test_round_trip(directory: Path) -> None:
    manifest = read_manifest(directory)
    assert manifest.classes[1] == ClassInfo(1, "Road", (4, 5, 6))
    assert manifest.palette == bytes([1, 2, 3, 4, 5, 6])
    assert manifest.num_classes == 2
    assert (manifest.graph.input_size, manifest.graph.bounds) == ((64, 96), Bounds(0.999, 1e-3))
    assert write_manifest(directory, manifest).name == "manifest.json"
    assert read_manifest(directory) == manifest


def test_output_has_a_cell_for_every_rest(directory: Path) -> None:
    edit_graph(directory, input_size=[65, 96])
    graph = read_manifest(directory).graph
    assert graph.output_size == (17, 24)
    assert graph.output_shape(3, 11) == (3, 11, 17, 24)
    edit_graph(directory, output="labels", output_stride=1)
    assert read_manifest(directory).graph.output_shape(3, 11) == (3, 65, 96)


def test_sha256_is_the_known_one(directory: Path) -> None:
    (directory / "abc").write_bytes(b"abc")
    assert file_sha256(directory / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_edited_graph_is_refused(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(b"other")
    with pytest.raises(ManifestError, match="changed after the export"):
        read_manifest(directory)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 1}, "format_version is 1, this release reads 2"),
        ({"format_version": 3}, "format_version is 3, this release reads 2"),
        ({"classes": []}, r"class ids are \[\]"),
        ({"classes": [{"id": 1, "name": "a", "color": [0, 0, 0]}] * 2}, r"class ids are \[1, 1\]"),
        (
            {
                "classes": [
                    {"id": index, "name": name, "color": [0, 0, 0]} for index, name in enumerate(("Sky", "a", "sky"))
                ]
            },
            r"manifest\.json: class 0 'Sky' and class 2 'sky' have the same name \(case does not count\); rename one",
        ),
        ({"classes": [{"id": 0, "name": "a", "color": [0, 0, 256]}]}, r"\[0, 0, 256\].*within 0\.\.255"),
        ({"classes": [{"id": 0, "name": "a", "color": [0, 0, 1.9]}]}, r"a colour is 1\.9, expected a whole number"),
        ({"classes": [{"id": "0", "name": "a", "color": [0, 0, 0]}]}, "the id of a class is '0', expected a whole"),
        ({"classes": [{"id": 0, "name": 5, "color": [0, 0, 0]}]}, "a class's name is 5, expected text"),
        ({"classes": [{"id": 0, "color": [0, 0, 0]}]}, "'name' is missing"),
        ({"architecture": 5}, "architecture is 5, expected text"),
        ({"data": ["a"]}, r"data is \['a'\], expected text"),
        ({"license": None}, "license is None, expected text"),
        ({"metrics": [1]}, r"metrics is \[1\], expected an object"),
        ({"metrics": {"val_miou": "high"}}, "metrics has val_miou 'high', expected a number"),
        ({"exporter": {"torch": 2}}, "exporter's torch is 2, expected text"),
        ({"checkpoint": {"file": 5, "sha256": ""}}, "file is 5, expected text"),
        ({"golden": {"file": "golden.npz", "sha256": None}}, r"sha256 of golden\.npz is None, expected text"),
        ({"golden": {"file": "..", "sha256": ""}}, "file is '..', expected a name without folders"),
        ({"graphs": []}, "graphs is empty"),
        ({"golden": {"file": "../golden.npz", "sha256": ""}}, "expected a name without folders"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_fields_out_of_range_are_named(fields: dict[str, Any], message: str, directory: Path) -> None:
    edit(directory, **fields)
    with pytest.raises(ManifestError, match=message):
        read_manifest(directory)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size": [16, 96]}, r"input_size is \[16, 96\]"),
        ({"input_size": [64]}, "values to unpack"),
        ({"output_stride": 8}, r"output_stride of model\.onnx is 8, expected 4"),
        ({"output_stride": 1}, r"output_stride of model\.onnx is 1, expected 4"),
        ({"output": "labels", "output_stride": 2}, "is 2, expected 1 or 4"),
        ({"output": "masks"}, r"output of model\.onnx is 'masks', expected one of logits, labels"),
        ({"precision": "bf8"}, r"precision of model\.onnx is 'bf8', expected one of fp32, fp16, int8"),
        ({"file": "/etc/passwd"}, "expected a name without folders"),
        ({"file": ""}, "file is '', expected a name without folders"),
        ({"file": "a\0b"}, r"file is 'a\\x00b', expected a name without folders"),
        ({"file": "n" * 256}, "cannot be read: File name too long"),
        ({"sha256": 5}, r"sha256 of model\.onnx is 5, expected text"),
        ({"input_size": [64.5, 96]}, r"a side of input_size is 64\.5, expected a whole number"),
        ({"bounds": {"min_equal_labels": "high"}}, "min_equal_labels is 'high', expected a share within 0..1"),
        ({"bounds": {"min_equal_labels": float("nan")}}, "min_equal_labels is nan, expected a share within 0..1"),
        ({"bounds": {"min_equal_labels": 1.1}}, "min_equal_labels is 1.1, expected a share within 0..1"),
        (
            {"bounds": {"min_equal_labels": 1, "max_logit_error": float("nan")}},
            "max_logit_error is nan, expected a num",
        ),
        ({"bounds": {"min_equal_labels": 1, "max_logit_error": -1}}, "max_logit_error is -1, expected a number of 0"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_faults_of_a_graph_are_named(fields: dict[str, Any], message: str, directory: Path) -> None:
    edit_graph(directory, **fields)
    with pytest.raises(ManifestError, match=message):
        read_manifest(directory)


def test_missing_and_broken_files_are_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is not a model directory"):
        read_manifest(tmp_path / "absent")
    (directory / "model.onnx").unlink()
    with pytest.raises(ManifestError, match=r"has no model\.onnx"):
        read_manifest(directory)
    (directory / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(directory)
    (directory / "manifest.json").write_text("[]")
    with pytest.raises(ManifestError, match="expected an object, got list"):
        read_manifest(directory)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_text("[" * 200_000), "its JSON is nested too deep"),
        (lambda path: path.write_text('{"a":' * 200_000), "its JSON is nested too deep"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read: .*codec can't decode"),
        (make_pipe, "it is not a regular file"),
        (make_device, "it is not a regular file"),
        (lambda path: os.truncate(path, 300 << 20), "it has 314572800 bytes, at most 1048576 are accepted"),
        (lambda path: path.write_text('{"format_version": 2, "classes": 7, "graphs": []}'), "not iterable"),
    ],
)
def test_a_hostile_manifest_is_an_error_at_once(spoil: Callable[[Path], object], message: str, directory: Path) -> None:
    spoil(directory / "manifest.json")
    with pytest.raises(ManifestError, match=message):
        read_manifest(directory)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": "1.0\r\nSet-Cookie: a"},
        {"version": "\u4e00"},
        {"version": "a/b"},
        {"version": ".."},
        {"version": "1" * 65},
        {"version": ""},
        {"version": 1},
        {"name": "street\n"},
        {"name": "a/b"},
        {"name": "a" * 129},
        {"name": None},
    ],
)
def test_names_and_versions_fit_into_headers_and_paths(fields: dict[str, Any], directory: Path) -> None:
    manifest = read_manifest(directory)
    (field,) = fields
    with pytest.raises(ManifestError, match=f"{field} is "):
        write_manifest(directory, replace(manifest, **fields))
    edit(directory, **fields)
    with pytest.raises(ManifestError, match=f"{field} is "):
        read_manifest(directory)


@pytest.mark.parametrize("version", ["1.0.0-rc.1+cpu", "2026_11", "v3"])
def test_usual_versions_are_taken(version: str, directory: Path) -> None:
    edit(directory, version=version)
    assert read_manifest(directory).version == version


def test_reading_a_manifest_needs_the_standard_library_only() -> None:
    heavy = ("torch", "onnx", "numpy")
    code = f"import sys, service.model_directory.manifest; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_bf16_is_of_no_file_but_made_of_a_float32_graph(directory: Path) -> None:
    graph = read_manifest(directory).graph
    made = in_bf16(graph)
    assert (made.file, made.sha256, made.precision, made.bounds) == (graph.file, graph.sha256, "bf16", Bounds(0.98))
    raw = json.loads((directory / "manifest.json").read_text())["graphs"][0]
    edit(directory, graphs=[{**raw, "precision": "bf16"}])
    with pytest.raises(ManifestError, match=f"precision of {graph.file} is 'bf16', expected one of fp32, fp16, int8"):
        read_manifest(directory)
