"""Answers become the current publication of a date.

Begin with `publish` (checks and result files); `current` makes a publication the one that counts.
"""
