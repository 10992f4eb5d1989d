"""Builds ``service/imaging/_native.so``, a plain shared library that is loaded with ctypes.

The compiler is ``$CC`` or ``cc``; where there is none, PyPI's ``ziglang``, which then becomes a build requirement. The
library knows nothing of Python, so one wheel serves every Python 3 of a platform.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# Exactness rests on -ffp-contract=off, and on the absence of -ffast-math.
FLAGS = ["-O3", "-std=c11", "-fPIC", "-shared", "-s", "-ffp-contract=off"]


def system_compiler() -> list[str] | None:
    """The compiler command of this machine, or None."""
    command = shlex.split(os.environ.get("CC", "cc"))
    return command if shutil.which(command[0]) else None


def compiler() -> list[str]:
    """The compiler command; an option keeps zig from compiling for the CPU of this very machine."""
    return system_compiler() or [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]


class BuildLibrary(build_ext):
    """Compiles without Python's headers and flags, into a name without the ABI tag."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.spawn([*compiler(), *FLAGS, "-o", str(target), *ext.sources])


class PlatformWheel(bdist_wheel):
    """Tags the wheel ``py3-none-<platform>``."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "service.imaging._native",
            sources=["service/imaging/label_map.c", "service/imaging/resize.c"],
            depends=["service/imaging/native.h"],
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
    setup_requires=[] if system_compiler() else ["ziglang>=0.13"],
)
