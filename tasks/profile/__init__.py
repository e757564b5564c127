"""Rows become tokens and cost."""
