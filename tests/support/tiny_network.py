"""A network small enough for tests."""

from __future__ import annotations

from trainer.model.ecenet import ModelConfig

TINY = ModelConfig("swin", 11, 16, embed_dim=8, depths=(1, 2, 1, 1), swin_heads=(1, 2, 2, 4), window_size=4)
