"""What all steps of a night share.

Begin with `request` (what was asked for), then `night` (one live attempt at it); `model` finds the model.
"""
