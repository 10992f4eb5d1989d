"""From an image to its logits: admission, batches, the watch over the engine. Knows nothing of HTTP."""
