"""The contract between training, export and serving: what a model directory holds."""
