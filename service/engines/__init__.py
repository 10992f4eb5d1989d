"""Runtimes that turn a batch of images into logits."""
