"""What became of a change, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.models.model import Model


def summarize(before: Mapping[str, Model], after: Mapping[str, Model], failed: Sequence[str]) -> str:
    """Compare the models that served, by name, before and after; ``failed`` are versions that could not be loaded."""
    loaded = [f"{name} {model.version}" for name, model in after.items() if before.get(name) is not model]
    unloaded = [f"{name} {model.version}" for name, model in before.items() if name not in after]
    parts = [
        f"{len(names)} {what} ({', '.join(names)})" if names else f"0 {what}"
        for what, names in (("loaded", loaded), ("unloaded", unloaded), ("failed", failed))
    ]
    return f"{', '.join(parts)}, {len(after) - len(loaded)} as before"
