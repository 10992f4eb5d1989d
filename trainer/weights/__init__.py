"""Weights of networks: files of many kinds, names of their tensors, and the networks that they describe."""
