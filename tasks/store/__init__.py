"""Where bytes live: a folder or S3 behind one small interface.

Begin with `contract`; `open` makes a store of a URI.
"""
