"""Supported architectures: configuration, weights, and the decoder that runs them.

Begin with `decoder` and `layer`; `config` says what a model folder may ask for.
"""
