"""Names that the training loop imports; see ``trainer.prediction``."""

from trainer.prediction.mode import validation_mode as trained_mode
from trainer.prediction.predictor import Network
from trainer.prediction.predictor import network_predictor as mode_predictor

__all__ = ["Network", "mode_predictor", "trained_mode"]
