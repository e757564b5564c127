"""Supported architectures: configuration, weights, and the decoder that runs them."""
