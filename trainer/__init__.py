"""Training of ECENet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.weights.network import load_model

__all__ = ["load_model"]


def __getattr__(name: str) -> object:
    """Import on first use, so that importing ``trainer.config`` alone stays free of PyTorch."""
    if name == "load_model":
        from trainer.weights.network import load_model  # noqa: PLC0415

        return load_model
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")
