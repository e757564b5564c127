"""What an answer may be constrained to, and whether that can be enforced exactly; see `constraint`.

A constraint crosses the process boundary as a text, so that equal ones are told by comparing them.
"""
