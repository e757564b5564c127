"""The only memory of a run: an append-only log, the parts it names, and who holds the run.

Begin with `records` (what the log says), then `state` (what that means) and `log` (reading, holding,
appending).
"""
