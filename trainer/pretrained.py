"""Names that the training loop imports; see ``trainer.weights``."""

from trainer.weights.pretrained import initialise

__all__ = ["initialise"]
