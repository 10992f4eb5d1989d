"""ECENet (Liu et al., ICCV 2023): one module per box of the paper's figure 3."""

from trainer.model.ecenet import ECENet, ModelConfig, build_model, named_config

__all__ = ["ECENet", "ModelConfig", "build_model", "named_config"]
