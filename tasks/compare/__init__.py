"""The same requests through several engines and orders in turn: which serves a team best.

Begin with `compare`.
"""
