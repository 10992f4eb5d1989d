"""Engines on disk, each beside a JSON manifest that states its target and is signed by its builder.

To deserialise an engine is to execute code that is in it. So an engine is only given out if its manifest was signed by
this installation, or if the user names the file. Standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from service.model_directory.files import PART_SUFFIX, read_bounded, write_whole
from service.model_directory.machine import Machine
from service.model_directory.manifest import MAX_MANIFEST_BYTES, GraphInfo, Output, Precision, file_sha256
from service.model_directory.sizes import Size, format_size

ENGINE_FOLDER = "engines"
ENGINE_SUFFIX = ".engine"
STATE_VARIABLE = "ECENET_STATE_DIR"
_KEY_NAME = "engine-signing.key"
_LOCK_NAME = ".build.lock"
_KEY_BYTES = 32

T = TypeVar("T")


class EngineStoreError(RuntimeError):
    """No engine that may be used; the text states the reason and the command that helps."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """The key of an engine; another value of any field is another engine.

    Attributes:
        graph_sha256: SHA-256 of the ONNX graph in the model directory.
        machine: Runtime with version, GPU with compute capability, driver.
        profile: Least, best and largest batch.
        flags: Everything else that changes the result, e.g. the version of the changes made to the graph.
    """

    graph_sha256: str
    machine: Machine
    profile: tuple[int, int, int]
    flags: tuple[str, ...] = ()

    def digest(self) -> str:
        """16 hexadecimal digits, the engine's file name."""
        return hashlib.sha256(_canonical(asdict(self))).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An engine's manifest.

    Attributes:
        key: Everything that it depends on.
        sha256: SHA-256 of the engine file.
        input_size: (height, width) in pixels of its input ``images``, (B, height, width, 3) uint8.
        precision: Arithmetic of the graph that it was built from.
        output: ``logits`` or ``labels``.
        output_stride: See ``GraphInfo``.
        num_classes: K.
        attentions: Attentions of the SAUs, and of the backbone's windows.
        fused_attentions: Fused attention kernels in the engine's layer report.
        built: Seconds since 1970.
        signature: HMAC-SHA256 of all other fields by the installation that built it.
        path: The engine file; not part of the manifest.
    """

    key: EngineKey
    sha256: str
    input_size: Size
    precision: Precision
    output: Output
    output_stride: int
    num_classes: int
    attentions: int
    fused_attentions: int
    built: float
    signature: str = ""
    path: Path = Path()

    @property
    def max_batch_size(self) -> int:
        return self.key.profile[2]

    def read(self) -> bytes:
        """The engine, if it is still the file that the manifest describes.

        Raises:
            EngineStoreError: It was changed.
        """
        plan = self.path.read_bytes()
        digest = hashlib.sha256(plan).hexdigest()
        if digest != self.sha256:
            raise EngineStoreError(
                f"{self.path} has SHA-256 {digest}, its manifest states {self.sha256}: the file was changed after the "
                "build; build it again with ecenet-export tensorrt DIR --force"
            )
        return plan


@contextmanager
def building(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Make the engine folder and this installation's key, and keep other builds out of the folder meanwhile.

    Several replicas that start at once with one folder then build once. To be entered before the work: a build takes
    minutes, and is lost where it cannot be written.

    Args:
        folder: The engine folder.
        waiting: Called once if another build is under way, which is waited for.

    Raises:
        EngineStoreError: The folder or the key cannot be written, or the key is not as it was made.
    """
    _installation_key(create=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK_NAME).open("wb")
    except OSError as error:
        raise EngineStoreError(
            f"{folder} cannot be written ({error}); name a folder for engines with --engine-dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob(f".*{PART_SUFFIX}"):  # by a build that was killed while it wrote
            left.unlink(missing_ok=True)
        yield


def write_engine(folder: Path, plan: bytes, info: EngineInfo) -> EngineInfo:
    """Write an engine and its signed manifest, the manifest last; gives the manifest with path and signature.

    Raises:
        OSError: The folder cannot be written.
        EngineStoreError: This installation's key cannot be written, or is not as it was made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (info.key.digest() + ENGINE_SUFFIX)
    info = replace(info, sha256=hashlib.sha256(plan).hexdigest(), path=path)
    info = replace(info, signature=_signature(_fields(info), _installation_key(create=True)))
    write_whole(path, plan)
    write_whole(
        path.with_suffix(".json"), json.dumps({**_fields(info), "signature": info.signature}, indent=2).encode()
    )
    return info


def find_engine(folder: Path, graph: GraphInfo, machine: Machine) -> EngineInfo:
    """The newest engine of a graph that this machine may load.

    Raises:
        EngineStoreError: There is none; the text says why each stored engine was rejected.
    """
    faults: list[str] = []
    engines = _engines(folder, faults)
    of_graph = [info for info in engines if info.key.graph_sha256 == graph.sha256]
    for info in sorted(of_graph, key=lambda info: -info.built):
        fault = _fault(info, machine)
        if fault is None:
            return info
        faults.append(f"{info.path.name}: {fault}")
    if others := len(engines) - len(of_graph):
        faults.append(f"{others} built from other graphs")
    reasons = f" ({'; '.join(faults)})" if faults else ""
    raise EngineStoreError(
        f"{folder} has no engine for {graph.file}, {format_size(graph.input_size)}, that may be used here{reasons}; "
        "build one with ecenet-export tensorrt DIR"
    )


def find_built(folder: Path, key: EngineKey) -> EngineInfo | None:
    """The engine of exactly this key, if it exists, is unchanged and was built by this installation."""
    path = folder / (key.digest() + ENGINE_SUFFIX)
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return None
    try:
        info = read_engine_info(path)
    except EngineStoreError:
        return None
    intact = info.key == key and _is_ours(info) and file_sha256(path) == info.sha256
    return info if intact else None


def named_engine(path: Path) -> EngineInfo:
    """An engine that the user names and so trusts: no signature is asked for, but the manifest beside it is.

    Raises:
        EngineStoreError: No such file, no manifest, or a manifest that does not describe it.
    """
    if not path.is_file():
        raise EngineStoreError(f"{path} does not exist, expected an engine of ecenet-export tensorrt")
    return read_engine_info(path)


def read_engine_info(path: Path) -> EngineInfo:
    """The manifest of an engine file, unchecked but for its form.

    Raises:
        EngineStoreError: It is missing or malformed.
    """
    source = path.with_suffix(".json")
    try:
        return _parse_info(json.loads(read_bounded(source, MAX_MANIFEST_BYTES).decode()), path)
    except FileNotFoundError:
        raise EngineStoreError(
            f"{path} has no manifest {source.name} beside it; build it again with ecenet-export tensorrt DIR"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineStoreError(
            f"{source} is not the manifest of an engine ({error!r}); build it again with "
            "ecenet-export tensorrt DIR --force"
        ) from error


def _parse_info(raw: Any, path: Path) -> EngineInfo:
    """An engine's manifest from decoded JSON: every field, no other, each of its type.

    Raises:
        KeyError, TypeError, ValueError: It is malformed.
    """
    _check_names(raw, EngineInfo, without="path")
    _check_names(raw["key"], EngineKey)
    _check_names(raw["key"]["machine"], Machine)
    machine = Machine(**{name: _text(raw["key"]["machine"], name) for name in raw["key"]["machine"]})  # type: ignore[arg-type]
    least, best, most = _counts(raw["key"], "profile")
    height, width = _counts(raw, "input_size")
    flags = tuple(_typed(flag, str, "flag") for flag in _typed(raw["key"]["flags"], list, "flags"))
    return EngineInfo(
        key=EngineKey(_text(raw["key"], "graph_sha256"), machine, (least, best, most), flags),
        sha256=_text(raw, "sha256"),
        input_size=(height, width),
        precision=_text(raw, "precision"),  # type: ignore[arg-type]
        output=_text(raw, "output"),  # type: ignore[arg-type]
        output_stride=_typed(raw["output_stride"], int, "output_stride"),
        num_classes=_typed(raw["num_classes"], int, "num_classes"),
        attentions=_typed(raw["attentions"], int, "attentions"),
        fused_attentions=_typed(raw["fused_attentions"], int, "fused_attentions"),
        built=_typed(raw["built"], (int, float), "built"),
        signature=_text(raw, "signature"),
        path=path,
    )


def _check_names(raw: Any, kind: type[Any], without: str = "") -> None:
    expected = {field.name for field in fields(kind)} - {without}
    if set(_typed(raw, dict, kind.__name__)) != expected:
        raise ValueError(f"{kind.__name__} has the fields {sorted(raw)}, expected {sorted(expected)}")


def _text(raw: Mapping[str, Any], name: str) -> str:
    return _typed(raw[name], str, name)


def _counts(raw: Mapping[str, Any], name: str) -> list[int]:
    return [_typed(number, int, name) for number in _typed(raw[name], list, name)]


def _typed(value: Any, kind: type[T] | tuple[type[T], ...], name: str) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise TypeError(f"{name} is {value!r}, expected {' or '.join(each.__name__ for each in kinds)}")
    return value


def _engines(folder: Path, faults: list[str]) -> list[EngineInfo]:
    found = []
    for path in sorted(folder.glob(f"*{ENGINE_SUFFIX}")):
        try:
            found.append(read_engine_info(path))
        except EngineStoreError as error:
            faults.append(str(error))
    return found


def _fault(info: EngineInfo, machine: Machine) -> str | None:
    """The reason why an engine must not be loaded on a machine, or None."""
    if (misfit := info.key.machine.misfit(machine)) is not None:
        return misfit
    if not _is_ours(info):
        return "not built by this installation, or its manifest was changed; name it with --engine-file if you trust it"
    return None


def _is_ours(info: EngineInfo) -> bool:
    try:
        key = _installation_key(create=False)
    except FileNotFoundError:
        return False
    return hmac.compare_digest(info.signature.encode(errors="replace"), _signature(_fields(info), key).encode())


def _fields(info: EngineInfo) -> dict[str, Any]:
    """The signed content: all fields but the signature and the path."""
    return {name: value for name, value in asdict(info).items() if name not in ("signature", "path")}


def _signature(fields: Mapping[str, Any], key: bytes) -> str:
    return hmac.new(key, _canonical(fields), hashlib.sha256).hexdigest()


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _installation_key(*, create: bool) -> bytes:
    """This installation's secret; made on the first build, readable by its owner only.

    Raises:
        FileNotFoundError: There is none, and none is to be made.
        EngineStoreError: The file cannot be made or read, or is not as it was made.
    """
    path = state_folder() / _KEY_NAME
    try:
        if create and not path.exists():
            _create_key(path)
        key = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise EngineStoreError(
            f"this installation's key {path} cannot be created or read ({error}); name another folder for it with "
            f"{STATE_VARIABLE}"
        ) from error
    if len(key) != _KEY_BYTES:
        raise EngineStoreError(f"{path} has {len(key)} bytes, expected {_KEY_BYTES}; remove it and build engines again")
    if path.stat().st_mode & 0o077:
        raise EngineStoreError(f"{path} can be read by others; chmod 600 {path}, or remove it and build engines again")
    return key


def _create_key(path: Path) -> None:
    """Create the key in one step; of several processes that try, one wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(secrets.token_bytes(_KEY_BYTES))
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def state_folder() -> Path:
    """The folder of this installation's key: ``$ECENET_STATE_DIR``, or ``ecenet`` in the user's state folder.

    Raises:
        EngineStoreError: Neither is named, and the user has no home.
    """
    if chosen := os.environ.get(STATE_VARIABLE):
        return Path(chosen)
    if chosen := os.environ.get("XDG_STATE_HOME"):
        return Path(chosen) / "ecenet"
    try:
        return Path.home() / ".local" / "state" / "ecenet"
    except RuntimeError as error:
        raise EngineStoreError(f"{error}: name a folder for this installation's key with {STATE_VARIABLE}") from error
