"""A pilot: a sample of a real date in today's order and in the blend, and what the whole night would take.

Begin with `pilot`. `lengths` learns the answers' lengths from the sample, `whole` goes from the sample's
seconds to those of the night, `words` and `document` say it.
"""
