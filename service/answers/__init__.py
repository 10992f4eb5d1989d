"""Forms of an answer: options, encoders, cached results."""
