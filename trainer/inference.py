"""Names that the training loop imports; see ``trainer.prediction``."""

from trainer.prediction.predictor import evaluate, normalise, torch_infer

__all__ = ["evaluate", "normalise", "torch_infer"]
