"""Names that the training loop imports; see ``trainer.prediction``."""

from trainer.prediction.evaluation import evaluate
from trainer.prediction.pytorch import normalise
from trainer.prediction.pytorch import pytorch_infer as torch_infer

__all__ = ["evaluate", "normalise", "torch_infer"]
