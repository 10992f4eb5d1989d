"""Export of a trained ECENet to the model directory that the service reads."""
