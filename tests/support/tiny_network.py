"""Networks small enough for tests."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace

from trainer.model.ecenet import NAMED_SIZES, ModelConfig

TINY = ModelConfig("swin", 11, 16, embed_dim=8, depths=(1, 2, 1, 1), swin_heads=(1, 2, 2, 4), window_size=4)
# timm's convolutional network for tests: 0.14 million weights in place of 4.
TINY_CONVOLUTIONAL = replace(NAMED_SIZES["ecenet-lite0"], backbone="test_efficientnet", channels=16)
TINY_SIZES = {
    "ecenet-lite0": TINY_CONVOLUTIONAL,
    "ecenet-swin-tiny": replace(NAMED_SIZES["ecenet-swin-tiny"], embed_dim=24, depths=(1, 1, 1, 1), channels=16),
}


def shrink(sizes: MutableMapping[str, ModelConfig] = NAMED_SIZES) -> None:
    """Give named sizes tiny networks, for as long as the process lives."""
    sizes.update(TINY_SIZES)
