"""A candidate beside a night: what both sides did, whose answers differ, and how that is kept.

Begin with `compare_sides`. `answers` compares answers, `sides` holds what a side did.
"""
