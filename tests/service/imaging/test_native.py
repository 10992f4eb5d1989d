"""The compiled part of the service."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from service.imaging.native import LIBRARY, load_library

FUNCFLAG_PYTHONAPI = 4  # ctypes: the call keeps the GIL


@pytest.mark.parametrize("function", ["label_map", "resize"])
def test_calls_release_the_gil(function: str) -> None:
    library = load_library(LIBRARY)
    assert not isinstance(library, ctypes.PyDLL)
    assert not getattr(library, function)._flags_ & FUNCFLAG_PYTHONAPI


def test_missing_library_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"_native\.so cannot be loaded; build it with `pip install -e \.`"):
        load_library(tmp_path / "_native.so")
