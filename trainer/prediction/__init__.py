"""From an image to its label map: predictors around networks, inference engines, ONNX files and running services."""
