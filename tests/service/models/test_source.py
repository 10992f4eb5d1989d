from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from service.engines.base import EngineError
from service.engines.options import EngineOptions
from service.model_directory.manifest import GRAPH_NAME, MANIFEST_NAME, Manifest, ManifestError, write_manifest
from service.models.source import FoundModel, ModelFolder, by_name, refuse_duplicates

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path, manifest: Manifest) -> Put:
    """Writes a manifest alone to a folder below ``tmp_path``."""

    def put(folder: str, name: str = "street", version: str = "1.0.0") -> Path:
        directory = tmp_path / folder
        directory.mkdir(parents=True)
        write_manifest(directory, replace(manifest, name=name, version=version))
        return directory

    return put


def find(root: Path) -> list[FoundModel]:
    return sorted(ModelFolder(root, EngineOptions()).find(), key=lambda found: (found.name, found.version))


def test_both_layouts_are_found_and_the_manifest_gives_the_name(tmp_path: Path, put: Put) -> None:
    paths = [put("a"), put("b/x", version="1.1.0"), put("b/y", "night"), put("c", "day", "2")]
    assert [(found.name, found.version, found.directories) for found in find(tmp_path)] == [
        ("day", "2", (paths[3],)),
        ("night", "1.0.0", (paths[2],)),
        ("street", "1.0.0", (paths[0],)),
        ("street", "1.1.0", (paths[1],)),
    ]
    assert all(found.manifest and not found.problem for found in find(tmp_path))


def test_a_model_directory_is_one_model_whatever_else_is_in_it(tmp_path: Path, put: Put) -> None:
    put("engines/old", version="0.9")
    manifest = find(tmp_path)[0].manifest
    assert manifest is not None
    write_manifest(tmp_path, replace(manifest, version="3"))
    assert [found.version for found in find(tmp_path)] == ["3"]


def test_hidden_folders_and_second_ways_to_a_folder_are_left_out(tmp_path: Path, put: Put) -> None:
    """As Kubernetes mounts them: ``street`` leads to ``..data/street``, and that to ``..2025/street``."""
    put("..2025/street")
    (tmp_path / "..data").symlink_to("..2025")
    (tmp_path / "street").symlink_to("..data/street")
    (tmp_path / "latest").symlink_to("street")
    (found,) = find(tmp_path)
    assert found.name == "street"
    assert found.directories[0] in {tmp_path / "street", tmp_path / "latest"}


def test_one_version_in_two_places_is_an_error_that_names_both(tmp_path: Path, put: Put) -> None:
    first, second = put("a"), put("b/1")
    put("c", version="2")
    problem = f"{first} and {second} hold the same version, street 1.0.0: remove one, or give it another"
    twin, other = find(tmp_path)
    assert (twin.directories, twin.manifest, twin.problem) == ((first, second), None, problem)
    assert other.problem == ""
    with pytest.raises(ManifestError) as failure:
        refuse_duplicates(by_name(find(tmp_path), {}))
    assert str(failure.value) == problem


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "expected an object"),
        ('{"format_version": 2}', "field 'classes' is missing"),
        ({"name": ""}, "name is '', expected text"),
        ({"version": 3}, "version is 3, expected text"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_known_by_its_folders(
    tmp_path: Path, put: Put, content: str | dict[str, object], words: str
) -> None:
    path = put("street/1.5.0") / MANIFEST_NAME
    path.write_text(content if isinstance(content, str) else json.dumps({**json.loads(path.read_text()), **content}))
    (found,) = find(tmp_path)
    assert (found.name, found.version, found.manifest) == ("street", "1.5.0", None)
    assert found.problem.startswith(str(path))
    assert words in found.problem


def test_a_hostile_model_hides_no_other(tmp_path: Path, put: Put) -> None:
    put("good")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / MANIFEST_NAME).write_text("[" * 200_000)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / MANIFEST_NAME)
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / MANIFEST_NAME).touch()
    os.truncate(tmp_path / "large" / MANIFEST_NAME, 300 << 20)
    deep, large, pipe, street = find(tmp_path)
    assert (street.name, street.problem) == ("street", "")
    assert "nested too deep" in deep.problem
    assert "not a regular file" in pipe.problem
    assert "314572800 bytes" in large.problem


def test_a_folder_without_models_is_an_error(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ManifestError, match=r"neither it nor a folder in it has a manifest\.json"):
            find(root)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read: File name too long"):
        find(tmp_path / ("x" * 300))


def test_files_are_compared_with_the_manifest_when_a_model_is_loaded(tiny_model_dir: Path) -> None:
    source = ModelFolder(tiny_model_dir, EngineOptions(engine="onnxruntime"))
    (found,) = source.find()
    loaded = source.load(found)
    assert (loaded.manifest.name, loaded.engine.name) == ("brightness", "onnxruntime")
    assert min(loaded.seconds.values()) > 0
    loaded.engine.close()
    (tiny_model_dir / GRAPH_NAME).write_bytes(b"another")
    with pytest.raises(ManifestError, match=r"model\.onnx has SHA-256"):
        source.load(found)


def test_a_manifest_that_changes_between_search_and_load_is_not_mixed_up(tiny_model_dir: Path) -> None:
    source = ModelFolder(tiny_model_dir, EngineOptions())
    (found,) = source.find()
    assert found.manifest is not None
    write_manifest(tiny_model_dir, replace(found.manifest, version="2"))
    with pytest.raises(EngineError, match="has changed since it was found"):
        source.load(found)
