"""The report of a training run: one HTML file with curves, classes, confusion, and the best and worst images."""
