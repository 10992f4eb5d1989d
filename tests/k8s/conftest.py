"""Fixtures of the checks of all manifests."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from kubernetes_validate import utils


@pytest.fixture(scope="session", autouse=True)
def cached_schemas() -> Iterator[None]:
    """kubernetes-validate would read a megabyte of definitions for each object anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield
