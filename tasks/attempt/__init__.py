"""Whose run it is: the request becomes a run, held by one attempt, which ends in one way or another.

Begin with `extract_inputs` (step extract names the run), then `open`, `tokenize_inputs` and `ended`.
"""
