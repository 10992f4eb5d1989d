"""Engines on disk: given out only where they fit, unchanged, and to the installation that built them."""

from __future__ import annotations

import json
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from service.model_directory.engine_store import (
    EngineInfo,
    EngineKey,
    EngineStoreError,
    building,
    find_built,
    find_engine,
    named_engine,
    read_engine_info,
    state_folder,
    write_engine,
)
from service.model_directory.files import write_whole
from service.model_directory.machine import Machine
from service.model_directory.manifest import GraphInfo
from tests.support.limits import HANG_S

L4 = Machine("tensorrt", "10.14.1", "NVIDIA L4", "8.9", "13.0")
GRAPH = GraphInfo("model-64x96-fp16.onnx", "a" * 64, (64, 96), precision="fp16")
KEY = EngineKey(GRAPH.sha256, L4, (1, 8, 8), ("graph-copy-1",))
PLAN = b"a serialised engine"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of an installation of its own."""
    folder = tmp_path / "state"
    monkeypatch.setenv("ECENET_STATE_DIR", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engines"


def engine(folder: Path, key: EngineKey = KEY, built: float = 1e9, plan: bytes = PLAN) -> EngineInfo:
    return write_engine(folder, plan, EngineInfo(key, "", (64, 96), "fp16", "logits", 4, 11, 15, 15, built))


def edit(info: EngineInfo, **changes: Any) -> None:
    path = info.path.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_written_is_found_and_read(folder: Path) -> None:
    written = engine(folder)
    found = find_engine(folder, GRAPH, L4)
    assert found == written
    assert (found.read(), found.max_batch_size, found.key) == (PLAN, 8, KEY)
    assert found.path.name == f"{KEY.digest()}.engine"
    assert find_built(folder, KEY) == written
    assert sorted(path.suffix for path in folder.iterdir()) == [".engine", ".json"]


def changed(field: str) -> Machine:
    """L4 with another value in one field."""
    change: dict[str, Any] = {field: "other"}
    return replace(L4, **change)


@pytest.mark.parametrize("name", [field.name for field in fields(Machine)])
def test_every_field_of_the_machine_makes_another_engine(name: str, folder: Path) -> None:
    engine(folder)
    other = replace(KEY, machine=changed(name))
    assert other.digest() != KEY.digest()
    assert find_built(folder, other) is None
    with pytest.raises(
        EngineStoreError, match=r"may be used here \(.*built .*\); build one with ecenet-export tensorrt"
    ):
        find_engine(folder, GRAPH, changed(name))


@pytest.mark.parametrize(
    "change", [{"graph_sha256": "b"}, {"profile": (1, 4, 8)}, {"flags": ("graph-copy-2",)}, {"flags": ()}]
)
def test_every_other_field_of_the_key_makes_another_engine(change: dict[str, Any], folder: Path) -> None:
    engine(folder)
    other = replace(KEY, **change)
    assert other.digest() != KEY.digest()
    assert find_built(folder, other) is None


def test_an_engine_under_the_name_of_another_is_not_taken_for_it(folder: Path) -> None:
    other = replace(KEY, flags=("graph-copy-2",))
    info = engine(folder)
    for suffix in (".engine", ".json"):
        info.path.with_suffix(suffix).rename(folder / f"{other.digest()}{suffix}")
    assert find_engine(folder, GRAPH, L4).key == KEY
    assert find_built(folder, other) is None


def test_engines_of_other_graphs_are_not_listed_one_by_one(folder: Path) -> None:
    engine(folder, replace(KEY, graph_sha256="b"))
    engine(folder, replace(KEY, graph_sha256="c"))
    with pytest.raises(EngineStoreError, match=r"no engine for model-64x96-fp16\.onnx, 64x96, .*\(2 built from other"):
        find_engine(folder, GRAPH, L4)


def test_the_newest_of_several_is_taken(folder: Path) -> None:
    new = engine(folder, built=2e9)
    engine(folder, replace(KEY, profile=(1, 4, 4)), built=1e9)
    assert find_engine(folder, GRAPH, L4) == new


def test_an_empty_or_missing_folder_is_told_with_the_command(folder: Path) -> None:
    with pytest.raises(EngineStoreError, match="may be used here; build one with ecenet-export tensorrt DIR"):
        find_engine(folder, GRAPH, L4)
    assert find_built(folder, KEY) is None


def test_an_edited_engine_is_refused(folder: Path) -> None:
    info = engine(folder)
    info.path.write_bytes(PLAN + b"!")
    assert find_built(folder, KEY) is None
    with pytest.raises(EngineStoreError, match=r"was changed after the build; .*ecenet-export tensorrt DIR --force"):
        find_engine(folder, GRAPH, L4).read()


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 64},
        {"num_classes": 12},
        {"fused_attentions": 3},
        {"built": 2e9},
        {"signature": ""},
        {"signature": "\u00e9"},
        {"signature": "\ud800"},
    ],
)
def test_an_edited_manifest_is_refused(change: dict[str, Any], folder: Path) -> None:
    edit(engine(folder), **change)
    assert find_built(folder, KEY) is None
    with pytest.raises(EngineStoreError, match="not built by this installation, or its manifest was changed; name it"):
        find_engine(folder, GRAPH, L4)


def test_another_installation_gets_no_engine_unless_it_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = engine(folder)
    monkeypatch.setenv("ECENET_STATE_DIR", str(tmp_path / "other"))
    for _ in range(2):  # without a key, and with another one
        with pytest.raises(EngineStoreError, match="name it with --engine-file if you trust it"):
            find_engine(folder, GRAPH, L4)
        assert find_built(folder, KEY) is None
        engine(tmp_path / "elsewhere")
    assert named_engine(info.path).read() == PLAN


def test_a_signature_is_of_one_manifest(folder: Path) -> None:
    first = engine(folder)
    second = engine(folder, replace(KEY, profile=(1, 4, 4)), plan=b"other")
    edit(first, signature=second.signature)
    assert find_engine(folder, GRAPH, L4) == second


RAW_FAULTS: list[Any] = [
    [],
    "text",
    None,
    7,
    {},
    {"key": None},
    {"key": []},
    {"sha256": ["a"]},
    {"sha256": 5},
    {"input_size": []},
    {"input_size": "64"},
    {"input_size": [64]},
    {"input_size": [64.5, 96]},
    {"precision": None},
    {"output_stride": "4"},
    {"num_classes": True},
    {"built": "yesterday"},
    {"built": None},
    {"signature": 0},
    {"signature": None},
    {"path": "/etc/passwd"},
    {"surprise": 1},
]


@pytest.mark.parametrize("fault", RAW_FAULTS, ids=repr)
def test_what_is_no_manifest_is_told(fault: Any, folder: Path) -> None:
    info = engine(folder)
    path = info.path.with_suffix(".json")
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, **fault} if fault and isinstance(fault, dict) else fault))
    for read in (read_engine_info, named_engine):
        with pytest.raises(EngineStoreError, match=r"\.json is not the manifest of an engine .*--force"):
            read(info.path)
    with pytest.raises(EngineStoreError, match=r"may be used here \(.*is not the manifest"):
        find_engine(folder, GRAPH, L4)
    assert find_built(folder, KEY) is None


@pytest.mark.parametrize(
    "fault",
    [
        {"graph_sha256": None},
        {"flags": "abc"},
        {"flags": [1]},
        {"profile": "118"},
        {"profile": [1, 8]},
        {"profile": [1, 8, "8"]},
        {"machine": []},
        {"machine": {}},
        {"machine": {**{field.name: "x" for field in fields(Machine)}, "compute_capability": None}},
        {"surprise": 1},
    ],
    ids=repr,
)
def test_what_is_no_key_is_told(fault: dict[str, Any], folder: Path) -> None:
    info = engine(folder)
    raw = json.loads(info.path.with_suffix(".json").read_text())
    edit(info, key={**raw["key"], **fault})
    with pytest.raises(EngineStoreError, match="is not the manifest of an engine"):
        read_engine_info(info.path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"key": {"machine"'])
def test_what_is_no_json_is_told(content: bytes, folder: Path) -> None:
    info = engine(folder)
    info.path.with_suffix(".json").write_bytes(content)
    with pytest.raises(EngineStoreError, match="is not the manifest of an engine"):
        read_engine_info(info.path)


def test_missing_files_are_told(folder: Path) -> None:
    with pytest.raises(EngineStoreError, match=r"a\.engine does not exist, expected an engine"):
        named_engine(folder / "a.engine")
    info = engine(folder)
    info.path.with_suffix(".json").unlink()
    with pytest.raises(EngineStoreError, match=rf"has no manifest {info.path.stem}\.json beside it; build it again"):
        named_engine(info.path)
    assert find_built(folder, KEY) is None


def test_the_key_is_for_its_owner_only(folder: Path, state: Path) -> None:
    engine(folder)
    (key,) = state.iterdir()
    assert (key.name, key.stat().st_size) == ("engine-signing.key", 32)
    assert (stat.S_IMODE(key.stat().st_mode), stat.S_IMODE(state.stat().st_mode)) == (0o600, 0o700)
    before = key.read_bytes()
    engine(folder, replace(KEY, profile=(1, 4, 4)))
    assert key.read_bytes() == before


def test_a_key_that_others_can_read_is_refused(folder: Path, state: Path) -> None:
    engine(folder)
    key = state / "engine-signing.key"
    key.chmod(0o640)
    with pytest.raises(EngineStoreError, match=r"can be read by others; chmod 600 .*engine-signing\.key"):
        find_engine(folder, GRAPH, L4)
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(EngineStoreError, match="has 5 bytes, expected 32; remove it"):
        engine(folder)


def test_installations_that_start_at_once_share_one_key(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them find no key, and make one before any other is there."""
    barrier, link = threading.Barrier(8), os.link

    def link_together(*args: Any) -> None:
        barrier.wait(timeout=HANG_S)
        link(*args)

    monkeypatch.setattr(os, "link", link_together)
    with ThreadPoolExecutor(8) as pool:
        infos = list(pool.map(lambda index: engine(tmp_path / str(index)), range(8)))
    assert len({info.signature for info in infos}) == 1
    assert [path.name for path in state.iterdir()] == ["engine-signing.key"]


def test_state_folder_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert state_folder() == tmp_path / "state"
    monkeypatch.setenv("ECENET_STATE_DIR", "")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert state_folder() == Path("/x/ecenet")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert state_folder() == Path("/home/someone/.local/state/ecenet")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(EngineStoreError, match=r"Could not determine home directory\..*ECENET_STATE_DIR"):
        state_folder()


def test_a_state_or_engine_folder_that_cannot_be_made_is_told_before_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(EngineStoreError, match=r"cannot be written .*--engine-dir"),
        building(tmp_path / "file" / "engines", lambda: None),
    ):
        pytest.fail("the build began")
    monkeypatch.setenv("ECENET_STATE_DIR", str(tmp_path / "file" / "state"))
    with (
        pytest.raises(EngineStoreError, match=r"cannot be created .*name another folder .* with ECENET_STATE_DIR"),
        building(tmp_path / "engines", lambda: None),
    ):
        pytest.fail("the build began")


def test_builds_into_one_folder_wait_for_each_other(folder: Path) -> None:
    waits, order = threading.Event(), []

    def second() -> None:
        with building(folder, waits.set):
            order.append("second")

    with building(folder, lambda: pytest.fail("the first build has nobody to wait for")):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(HANG_S)
        order.append("first")
    thread.join(HANG_S)
    assert order == ["first", "second"]


def test_what_a_killed_build_left_is_gone_with_the_next(folder: Path) -> None:
    kept = engine(folder)
    (folder / f".{kept.path.name}.0123.part").write_bytes(b"half")
    with building(folder, lambda: None):
        pass
    assert sorted(path.suffix for path in folder.iterdir() if path.name != ".build.lock") == [".engine", ".json"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
