"""Formats of request logs, one a file.

Begin with `contract` (what a reader makes of a record); `registry` has all of them.
"""
