"""Rows become tokens and cost.

Begin with `tokenize` (prompts to tokens), then `profile` (compute and memory time of each request).
"""
