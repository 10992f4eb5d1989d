"""The processor's name and those of its instructions that decide how fast a precision is."""

from __future__ import annotations

import platform
from pathlib import Path

# By the names of ``/proc/cpuinfo``: vectors, INT8 products without saturation, and bf16.
_INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)
_NAME_FIELDS = ("model name", "Hardware", "CPU part")
_FLAG_FIELDS = ("flags", "Features")


def processor(root: Path = Path("/")) -> str:
    """Architecture, name and instructions, e.g. ``x86_64 AMD EPYC: avx2 avx512_vnni``.

    Args:
        root: Folder of ``proc``; tests use their own.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    pairs = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    name = next((value for field in _NAME_FIELDS for key, value in pairs if key == field), "unknown processor")
    flags = next((set(value.split()) for key, value in pairs if key in _FLAG_FIELDS), set())
    found = " ".join(flag for flag in _INSTRUCTIONS if flag in flags)
    return f"{platform.machine()} {name}: {found or 'no vector instructions known'}"
