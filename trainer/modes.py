"""Names that the training loop imports; see ``trainer.prediction``."""

from trainer.prediction.mode import Network, mode_predictor, trained_mode

__all__ = ["Network", "mode_predictor", "trained_mode"]
